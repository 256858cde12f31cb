"""What a node measures of itself: named registers that are extended part by part, as the PCRs of a TPM are.

Owns registers, how files are measured, and the bounds of that. Signs nothing, and compares nothing: what a value should
be is for the controller to say. Blocks on the disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

DIGEST_BYTES = 32

UNREADABLE = bytes(DIGEST_BYTES)
"""Stands for the digest of what is not there or cannot be read: that is a measurement too."""

MAX_FILE_BYTES = 64 * 1024 * 1024
"""Largest file that is measured: an interpreter, not a disk image. A larger one counts as unreadable."""

MAX_PROGRAM_FILES = 512
"""Files of the agent's program: three times as many as there are; the controller takes twice that in a statement."""

PROGRAM_PACKAGES = ("nodeagent", "souverix", "telemetry", "trust")
"""Packages the agent runs."""

_PIECE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Part:
    """One thing a register is extended by."""

    name: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Register:
    """A measurement register. Its value follows from its parts, in their order."""

    name: str
    parts: tuple[Part, ...]

    @property
    def value(self) -> bytes:
        """32 bytes: zeros, extended by each part."""
        value = bytes(DIGEST_BYTES)
        for part in self.parts:
            value = hashlib.sha256(value + part.digest).digest()
        return value


def text_part(name: str, text: str) -> Part:
    """A short text as a part; an empty one is one that could not be read."""
    return Part(name, hashlib.sha256(text.encode()).digest() if text else UNREADABLE)


def file_part(path: Path, name: str) -> Part:
    """A file as a part."""
    digest = hashlib.sha256()
    size = 0
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                size += len(piece)
                if size > MAX_FILE_BYTES:
                    return Part(name, UNREADABLE)
                digest.update(piece)
    except OSError:
        return Part(name, UNREADABLE)
    return Part(name, digest.digest())


def program_register(root: Path) -> Register:
    """The program files of the agent, which lie in packages below `root`."""
    files = [
        file.relative_to(root)
        for package in PROGRAM_PACKAGES
        for file in sorted((root / package).rglob("*.py"))
    ]
    parts = [file_part(root / file, file.as_posix()) for file in files[:MAX_PROGRAM_FILES]]
    return Register("agent.program", tuple(parts))


def files_register(paths: Sequence[str]) -> Register:
    """The files an operator named."""
    return Register("files", tuple(file_part(Path(path), path) for path in sorted(paths)))


def in_order(registers: Iterable[Register]) -> list[Register]:
    """Registers as a statement names them."""
    return sorted(registers, key=lambda register: register.name)
