"""Agent and controller sign and verify the same bytes, each by code of its own, and no form is taken for another."""

from __future__ import annotations

from controller.nodelink import proof as verified
from nodeagent import proof as signed

WORDS = ("edge-zone-a1-control", "n1", "s1", "r1")
KEY, NONCE, HEAD = b"k" * 32, b"n" * 32, b"h" * 32


def part(word: bytes) -> bytes:
    return len(word).to_bytes(4, "big") + word


def forms() -> list[tuple[bytes, bytes]]:
    return [
        (signed.proof_message(*WORDS, NONCE), verified.proof_message(*WORDS, NONCE)),
        (
            signed.voucher_message(*WORDS, KEY, NONCE),
            verified.voucher_message(*WORDS, KEY, NONCE),
        ),
        (signed.end_message(b"t", 7, 2, HEAD), verified.end_message(b"t", 7, 2, HEAD)),
        (signed.custody_message(7, HEAD), verified.custody_message(7, HEAD)),
        (signed.said_message(b"t", b"f"), verified.said_message(b"t", b"f")),
        (signed.chain_start("n1", "s1", 3), verified.chain_start("n1", "s1", 3)),
        (signed.chain_next(HEAD, b"r"), verified.chain_next(HEAD, b"r")),
    ]


def test_both_sides_have_the_same_forms() -> None:
    assert all(one == other for one, other in forms())


def test_no_form_is_another() -> None:
    assert len({one for one, _ in forms()}) == len(forms())


def test_the_forms_are_as_documented() -> None:
    words = b"".join(part(word.encode()) for word in WORDS)
    assert signed.voucher_message(*WORDS, KEY, NONCE) == (
        b"souverix.voucher.v1\0" + words + part(KEY) + NONCE
    )
    assert signed.custody_message(7, HEAD) == b"souverix.custody.v1\0" + part(b"7") + HEAD
