"""Whether a statement is well formed and signed over one challenge. Owns its signed form (docs/attestation.md), its
bounds and the words of refusals; never compares what it says with anything.

A register begins as zeros and is extended by each part, as a PCR of a TPM is: its value cannot be chosen, only led to.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from souverix.nodelink.v1 import nodelink_pb2

STATEMENT_TAG: Final = b"souverix.attestation.v1\0"

#: Bytes of nonces, register values and digests: SHA-256.
DIGEST_BYTES: Final = 32

#: Registers of a statement: a TPM has 24.
MAX_REGISTERS: Final = 32

#: Parts of all registers together: the files of an agent several times over.
MAX_EVENTS: Final = 1024

#: Longest name of a part: a path.
MAX_EVENT_NAME_BYTES: Final = 256

#: Largest statement: as many parts with usual names.
MAX_STATEMENT_BYTES: Final = 128 * 1024

#: Names of registers.
REGISTER_PATTERN: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

#: The one scheme there is: Ed25519 by a key in the agent's state directory. What a TPM signs would be another, with the
#: digest of the same signed form as its qualifying data.
SOFTWARE_SCHEME: Final = "ed25519"


class StatementRefused(Exception):
    """A statement that is not looked at. `reason` is one of docs/attestation.md, `message` for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Verifier(Protocol):
    """Checks Ed25519 signatures."""

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Tells whether the signature is the key's over the message."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """Whose statement it must be: the node's agent in one run, towards one controller."""

    controller: str
    node: str
    source: str
    run: str


@dataclass(frozen=True, slots=True)
class Measurements:
    """What a statement says, once it is known to be the node's. Values are "sha256:" and hex digits."""

    registers: dict[str, str]
    scheme: str
    public_key: bytes
    run: str
    #: By the node's own clock, in milliseconds since the epoch; None where it names no time there is.
    node_ms: int | None
    #: What a register's value is made of, (name, digest), which is asked of those that are wrong only.
    parts_of: Callable[[str], list[tuple[str, str]]] = field(compare=False)

    @property
    def digest(self) -> str:
        """Names these registers and this key, as "sha256:" and hex digits."""
        return measurements_digest(self.registers, self.public_key)


def read_statement(
    statement: nodelink_pb2.AttestationStatement, speaker: Speaker, verifier: Verifier
) -> Measurements:
    """What a statement says, whose nonce is the speaker's. Raises `StatementRefused`."""
    _check_form(statement)
    signed = signed_form(statement, speaker)
    if not verifier.verify(statement.public_key, signed, statement.signature):
        raise StatementRefused(
            "BAD_SIGNATURE", "the statement is not signed with the key it names over this challenge"
        )
    return Measurements(
        {each.name: digest_text(each.value) for each in statement.registers},
        statement.scheme,
        statement.public_key,
        speaker.run,
        _node_ms(statement),
        lambda name: _parts_of(statement, name),
    )


def signed_form(statement: nodelink_pb2.AttestationStatement, speaker: Speaker) -> bytes:
    """What is signed: every part with its length, so that nothing can be read in two ways."""
    words = [speaker.controller, speaker.node, speaker.source, speaker.run, statement.scheme]
    parts = [word.encode() for word in words]
    parts += [statement.public_key, statement.nonce]
    parts.append(b"%d.%d" % (statement.time.seconds, statement.time.nanos))
    for register in statement.registers:
        parts += [register.name.encode(), register.value, b"%d" % len(register.events)]
        parts += [event.name.encode() for event in register.events]
    return STATEMENT_TAG + b"".join(len(each).to_bytes(4, "big") + each for each in parts)


def extended(events: list[bytes]) -> bytes:
    """The value of a register that was extended by these digests, in order."""
    value = bytes(DIGEST_BYTES)
    for digest in events:
        value = hashlib.sha256(value + digest).digest()
    return value


def measurements_digest(registers: dict[str, str], public_key: bytes) -> str:
    """Names a set of registers and a key."""
    told = "".join(f"{name}={value}\n" for name, value in sorted(registers.items()))
    return digest_text(hashlib.sha256(told.encode() + public_key).digest())


def digest_text(digest: bytes) -> str:
    """A digest as facts hold it."""
    return f"sha256:{digest.hex()}"


def _check_form(statement: nodelink_pb2.AttestationStatement) -> None:
    size = statement.ByteSize()
    if size > MAX_STATEMENT_BYTES:
        _refuse("OVERSIZED", f"the statement is {size} bytes; at most {MAX_STATEMENT_BYTES} are")
    if len(statement.registers) > MAX_REGISTERS:
        _refuse(
            "OVERSIZED", f"it has {len(statement.registers)} registers; at most {MAX_REGISTERS}"
        )
    events = sum(len(register.events) for register in statement.registers)
    if events > MAX_EVENTS:
        _refuse("OVERSIZED", f"its registers have {events} parts; at most {MAX_EVENTS} are allowed")
    if statement.scheme != SOFTWARE_SCHEME:
        _refuse("SCHEME_UNKNOWN", f"scheme {statement.scheme[:64]!r} is not one this version knows")
    if len(statement.public_key) != DIGEST_BYTES:
        _refuse("MALFORMED", f"an {SOFTWARE_SCHEME} key has {DIGEST_BYTES} bytes")
    names = [register.name for register in statement.registers]
    if names != sorted(set(names)):
        _refuse("MALFORMED", "registers are named once each, in the order of their names")
    for register in statement.registers:
        _check_register(register)


def _check_register(register: nodelink_pb2.MeasurementRegister) -> None:
    if not REGISTER_PATTERN.fullmatch(register.name):
        _refuse("MALFORMED", f"{register.name[:80]!r} is no name of a register")
    for event in register.events:
        if not event.name or len(event.name.encode()) > MAX_EVENT_NAME_BYTES:
            _refuse("MALFORMED", f"a part of {register.name} has no name, or a longer one than any")
        if len(event.digest) != DIGEST_BYTES:
            _refuse("MALFORMED", f"a part of {register.name} has no digest of {DIGEST_BYTES} bytes")
    if register.value != extended([event.digest for event in register.events]):
        _refuse("PARTS_CONTRADICT", f"the parts of {register.name} do not lead to its value")


def _parts_of(statement: nodelink_pb2.AttestationStatement, name: str) -> list[tuple[str, str]]:
    return [
        (event.name, digest_text(event.digest))
        for register in statement.registers
        if register.name == name
        for event in register.events
    ]


def _node_ms(statement: nodelink_pb2.AttestationStatement) -> int | None:
    try:
        return statement.time.ToMilliseconds() if statement.HasField("time") else None
    except ValueError:
        return None


def _refuse(reason: str, message: str) -> None:
    raise StatementRefused(reason, message)
