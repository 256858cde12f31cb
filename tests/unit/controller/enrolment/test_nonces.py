"""A nonce counts where it was given, for a minute, once."""

from __future__ import annotations

import pytest

from controller.enrolment import nonces
from controller.enrolment.errors import NonceUnknown
from controller.enrolment.nonces import LIFE_MS, Nonces

T0_MS = 1_800_000_000_000
CHANCE = bytes(8)


def test_a_nonce_counts_for_a_minute_and_once() -> None:
    given = Nonces(b"k" * 32)
    nonce = given.give(CHANCE, T0_MS)
    given.check(nonce, T0_MS)
    given.check(nonce, T0_MS + LIFE_MS - 1)
    for now_ms in (T0_MS - 1, T0_MS + LIFE_MS):
        with pytest.raises(NonceUnknown):
            given.check(nonce, now_ms)
    given.use(nonce, T0_MS)
    with pytest.raises(NonceUnknown):
        given.check(nonce, T0_MS)


def test_what_was_not_given_here_does_not_count() -> None:
    given = Nonces(b"k" * 32)
    nonce = given.give(CHANCE, T0_MS)
    later = (T0_MS + LIFE_MS).to_bytes(8) + nonce[8:]
    for wrong in (
        b"",
        bytes(32),
        nonce[:-1],
        nonce + b"\0",
        later,
        Nonces(b"x" * 32).give(CHANCE, T0_MS),
    ):
        with pytest.raises(NonceUnknown):
            given.check(wrong, T0_MS)


def test_used_ones_are_forgotten_when_they_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nonces, "MAX_USED", 2)
    given = Nonces(b"k" * 32)
    used = [given.give(bytes([n]) * 8, T0_MS) for n in range(4)]
    for nonce in used:
        given.use(nonce, T0_MS)
    assert len(given._used) == 2
    given.use(used[0], T0_MS + LIFE_MS)
    assert len(given._used) == 1
