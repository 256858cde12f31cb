"""Statements: bounds, form, signature; what is signed is all of it."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from google.protobuf.message import DecodeError

from controller.attestation.statement import (
    MAX_EVENTS,
    MAX_REGISTERS,
    Speaker,
    StatementRefused,
    extended,
    read_statement,
    signed_form,
)
from controller.signing import Ed25519Signer, Ed25519Verifier
from souverix.nodelink.v1 import nodelink_pb2

SIGNER = Ed25519Signer.generate()
SPEAKER = Speaker("c", "n1", "s1", "r1")
VERIFIER = Ed25519Verifier()

Statement = nodelink_pb2.AttestationStatement


def unsigned(**registers: list[bytes]) -> Statement:
    said = Statement(nonce=b"\x05" * 32, scheme="ed25519", public_key=SIGNER.public_key)
    said.time.seconds = 1_800_000_000
    for name, digests in sorted(registers.items()):
        register = said.registers.add(name=name, value=extended(digests))
        for number, digest in enumerate(digests):
            register.events.add(name=f"f{number}", digest=digest)
    return said


def signed(said: Statement, speaker: Speaker = SPEAKER) -> Statement:
    said.signature = SIGNER.sign(signed_form(said, speaker))
    return said


def refusal(said: Statement, speaker: Speaker = SPEAKER) -> str:
    with pytest.raises(StatementRefused) as refused:
        read_statement(said, speaker, VERIFIER)
    return refused.value.reason


def test_a_statement_in_order_is_read() -> None:
    said = read_statement(signed(unsigned(a=[b"\x01" * 32], b=[])), SPEAKER, VERIFIER)
    assert said.registers["b"] == "sha256:" + "0" * 64
    assert said.parts_of("a") == [("f0", "sha256:" + "01" * 32)]
    assert (said.run, said.node_ms) == ("r1", 1_800_000_000_000)


@pytest.mark.parametrize(
    "speaker",
    [
        Speaker("other", "n1", "s1", "r1"),
        Speaker("c", "n2", "s1", "r1"),
        Speaker("c", "n1", "s2", "r1"),
        Speaker("c", "n1", "s1", "r2"),
        Speaker("cn", "1", "s1", "r1"),
    ],
)
def test_a_statement_is_of_one_node_one_run_and_for_one_controller(speaker: Speaker) -> None:
    assert refusal(signed(unsigned(a=[b"\x01" * 32])), speaker) == "BAD_SIGNATURE"


def _other_nonce(said: Statement) -> None:
    said.nonce = b"\x06" * 32


def _other_time(said: Statement) -> None:
    said.time.nanos = 1


def _other_value(said: Statement) -> None:
    said.registers[0].events[0].digest = b"\x09" * 32
    said.registers[0].value = extended([b"\x09" * 32])


def _other_part_name(said: Statement) -> None:
    said.registers[0].events[0].name = "another.py"


def _register_less(said: Statement) -> None:
    del said.registers[0]


def _register_more(said: Statement) -> None:
    said.registers.add(name="zz", value=bytes(32))


def _other_key(said: Statement) -> None:
    said.public_key = Ed25519Signer.generate().public_key


@pytest.mark.parametrize(
    "change",
    [
        _other_nonce,
        _other_time,
        _other_value,
        _other_part_name,
        _register_less,
        _register_more,
        _other_key,
    ],
)
def test_nothing_of_it_can_be_changed(change: Callable[[Statement], None]) -> None:
    said = signed(unsigned(a=[b"\x01" * 32]))
    change(said)
    assert refusal(said) == "BAD_SIGNATURE"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (unsigned(**{f"r{n:02}": [] for n in range(MAX_REGISTERS + 1)}), "OVERSIZED"),
        (unsigned(a=[b"\x01" * 32] * (MAX_EVENTS + 1)), "OVERSIZED"),
        (unsigned(a=[b"short"]), "MALFORMED"),
        (unsigned(**{"Not a name": []}), "MALFORMED"),
    ],
)
def test_what_is_out_of_bounds_is_refused_before_its_signature(
    said: Statement, reason: str
) -> None:
    assert refusal(said) == reason


def test_a_large_part_name_and_a_large_statement_are_refused() -> None:
    named = unsigned(a=[b"\x01" * 32])
    named.registers[0].events[0].name = "x" * 257
    assert refusal(named) == "MALFORMED"
    large = unsigned(a=[b"\x01" * 32] * 1000)
    for event in large.registers[0].events:
        event.name = "x" * 200
    assert refusal(large) == "OVERSIZED"


def test_registers_are_named_once_in_order_and_follow_from_their_parts() -> None:
    twice = unsigned(a=[])
    twice.registers.add(name="a", value=bytes(32))
    assert refusal(signed(twice)) == "MALFORMED"
    turned = unsigned(b=[])
    turned.registers.add(name="a", value=bytes(32))
    assert refusal(signed(turned)) == "MALFORMED"
    chosen = unsigned(a=[b"\x01" * 32])
    chosen.registers[0].value = b"\x42" * 32
    assert refusal(signed(chosen)) == "PARTS_CONTRADICT"


def test_no_mutated_statement_says_anything_else() -> None:
    chance = random.Random(11)
    whole = signed(unsigned(a=[b"\x01" * 32], b=[b"\x02" * 32] * 3)).SerializeToString()
    original = read_statement(Statement.FromString(whole), SPEAKER, VERIFIER)
    refused = 0
    for _ in range(2_000):
        raw = bytearray(whole)
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        try:
            said = read_statement(Statement.FromString(bytes(raw)), SPEAKER, VERIFIER)
        except (DecodeError, StatementRefused):
            refused += 1
            continue
        # A flipped bit may lie where protobuf reads nothing.
        assert said == original
        assert said.parts_of("b") == original.parts_of("b")
    assert refused > 1_900
