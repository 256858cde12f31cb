"""Proof that a log is the one this replica knows.

Owns the witness (which log, where it ended when last seen, with which hash), its file on local
disk, and the verdict on a log. Never decides what follows from a verdict.
"""

from __future__ import annotations

import enum
import json
import os
from dataclasses import dataclass
from pathlib import Path

from controller.log.errors import LogCorrupt
from controller.log.port import HASH_BYTES, NONCE_BYTES, Head, Log


@dataclass(frozen=True, slots=True)
class Witness:
    """The head this replica last saw, in the store of this identity."""

    identity: str
    head: Head


class Continuity(enum.Enum):
    """How a log relates to what the witness saw."""

    SAME = enum.auto()
    """All that the witness saw is still there."""
    REWOUND = enum.auto()
    """The same log, but what the witness saw last is gone or other: it was set back."""
    OTHER_LOG = enum.auto()
    """Another store, or a log created anew."""


async def check_continuity(witness: Witness, log: Log) -> Continuity:
    """Compare an opened log with the witness. Raises LogUnavailable, LogCorrupt."""
    head = await log.head()
    seen = witness.head
    if witness.identity != log.identity or seen.nonce != head.nonce:
        return Continuity.OTHER_LOG
    if head.next_offset < seen.next_offset:
        return Continuity.REWOUND
    if await log.hash_before(seen.next_offset) != seen.hash:
        return Continuity.REWOUND
    return Continuity.SAME


class WitnessFile:
    """The witness on local disk. Its calls block for an fsync."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Witness | None:
        """The witness stored last, None if there is none. Raises LogCorrupt if it is unreadable."""
        try:
            text = self._path.read_text()
        except FileNotFoundError:
            return None
        try:
            fields = json.loads(text)
            head = Head(
                next_offset=int(fields["next_offset"]),
                hash=bytes.fromhex(fields["hash"]),
                nonce=bytes.fromhex(fields["nonce"]),
            )
            if len(head.hash) != HASH_BYTES or len(head.nonce) != NONCE_BYTES:
                raise ValueError("hash or nonce has a wrong length")
            return Witness(str(fields["identity"]), head)
        except (ValueError, KeyError, TypeError) as error:
            raise LogCorrupt(
                f"{self._path} is unreadable ({error}); "
                "if the log is known to be sound, remove this file to trust the log as it is"
            ) from error

    def store(self, witness: Witness) -> None:
        """Replace the witness: afterwards the file holds the new one, after a crash either.

        Raises OSError.
        """
        fields = {
            "identity": witness.identity,
            "nonce": witness.head.nonce.hex(),
            "next_offset": witness.head.next_offset,
            "hash": witness.head.hash.hex(),
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_name(self._path.name + ".new")
        with draft.open("w") as file:
            json.dump(fields, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
