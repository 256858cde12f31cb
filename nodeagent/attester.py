"""Who signs what a node measured: the port, and the adapter with a key in a file.

Owns the signed form (docs/attestation.md) and the software key. Measures nothing. Whoever can read the state directory
can sign as the node: a key in a file proves that the statement is the agent's, not that the host cannot lie.

A TPM 2.0 fits behind the same port: it extends PCRs of its own by the same parts, quotes them with the digest of the
signed form as qualifying data, and names another scheme.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nodeagent.errors import StateUnavailable
from nodeagent.measurements import Register

STATEMENT_TAG = b"souverix.attestation.v1\0"

SOFTWARE_SCHEME = "ed25519"

KEY_FILE = "attestation.key"


@dataclass(frozen=True, slots=True)
class Binding:
    """What a statement is bound to: one challenge of one controller to one run of the agent, and a time."""

    controller: str
    node: str
    source: str
    run: str
    nonce: bytes
    seconds: int
    nanos: int


@dataclass(frozen=True, slots=True)
class Quote:
    """Registers, and the signature over them and what they are bound to."""

    scheme: str
    public_key: bytes
    registers: tuple[Register, ...]
    signature: bytes


class Attester(Protocol):
    """Signs measurements. Called in a thread of its own; may block."""

    def quote(self, binding: Binding, registers: Sequence[Register]) -> Quote:
        """The registers, in their order, signed. Raises StateUnavailable."""
        ...


class SoftwareAttester:
    """Signs with a key of its own in a file, which is made when it is first needed."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._key: Ed25519PrivateKey | None = None

    def quote(self, binding: Binding, registers: Sequence[Register]) -> Quote:
        """As `Attester.quote`."""
        if self._key is None:
            self._key = _read_or_make(self._file)
        public_key = self._key.public_key().public_bytes_raw()
        signed = signed_form(binding, SOFTWARE_SCHEME, public_key, registers)
        return Quote(SOFTWARE_SCHEME, public_key, tuple(registers), self._key.sign(signed))


def signed_form(
    binding: Binding, scheme: str, public_key: bytes, registers: Sequence[Register]
) -> bytes:
    """What is signed: every part with its length, so that nothing can be read in two ways."""
    words = (binding.controller, binding.node, binding.source, binding.run, scheme)
    parts = [word.encode() for word in words]
    parts += [public_key, binding.nonce, b"%d.%d" % (binding.seconds, binding.nanos)]
    for register in registers:
        parts += [register.name.encode(), register.value, b"%d" % len(register.parts)]
        parts += [part.name.encode() for part in register.parts]
    return STATEMENT_TAG + b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _read_or_make(file: Path) -> Ed25519PrivateKey:
    """The key in a file, which nobody but its owner can read. Raises StateUnavailable."""
    try:
        try:
            return Ed25519PrivateKey.from_private_bytes(file.read_bytes())
        except FileNotFoundError:
            key = Ed25519PrivateKey.generate()
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.partial")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as written:
            written.write(key.private_bytes_raw())
            written.flush()
            os.fsync(written.fileno())
        partial.replace(file)
    except (OSError, ValueError) as error:
        raise StateUnavailable(
            f"the attestation key {file} cannot be used: {error}; move it away to have another made, which a "
            "domain-admin must accept"
        ) from error
    return key
