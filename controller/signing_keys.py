"""The signing keys of a replica: the one in force, and the one that may follow it. Owns their files and which of them
seals; a key follows another by what the log says, never because a file changed.

The next key lies beside the present one, in a file named as that with `.next` after it, or has taken its place in the
file. The master states that it goes on under it, and from the commit after that one it seals with it; then the next
file takes the place of the present one. A crash in between is healed by the log, which says which of the two is in
force. Replicas that keep their own files need the next key on each of them before it is put in force.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from controller.signing import Ed25519Signer
from federation.barred import why_barred
from federation.errors import WrongState
from federation.identifiers import Origin
from federation.state import State

_log = logging.getLogger(__name__)


class SigningKeys:
    """A `Signer` that is exchanged when the log says so."""

    def __init__(self, present: Ed25519Signer, path: Path | None = None) -> None:
        self._present = present
        self._path = path
        #: Keys in the files that are not in force here, with the file of each; the next one first.
        self._others: list[tuple[Ed25519Signer, Path]] = []

    @classmethod
    def load(cls, path: Path) -> SigningKeys:
        """Reads the present key, and the next where there is one. Raises `OSError`, `ValueError`."""
        keys = cls(Ed25519Signer.load(path), path)
        keys.look()
        return keys

    @property
    def key_id(self) -> str:
        """Names the key in force."""
        return self._present.key_id

    @property
    def public_key(self) -> bytes:
        """The key in force, raw."""
        return self._present.public_key

    @property
    def next(self) -> Ed25519Signer | None:
        """The key that lies ready to follow."""
        return self._others[0][0] if self._others else None

    def sign(self, message: bytes) -> bytes:
        """Signs with the key in force."""
        return self._present.sign(message)

    def look(self) -> None:
        """Takes notice of what lies in the files. Raises `OSError`, `ValueError` for one that holds no key."""
        if self._path is None:
            return
        found = [
            (Ed25519Signer.load(path), path)
            for path in (_next_to(self._path), self._path)
            if path.exists()
        ]
        self._others = [(key, path) for key, path in found if key.key_id != self._present.key_id]

    def prepare(self) -> Ed25519Signer:
        """The next key; made now, where none lies ready. Raises `OSError`, `ValueError`, `WrongState`."""
        self.look()
        if self._path is None:
            raise WrongState("this replica's signing key is in no file; it cannot be exchanged")
        if not self._others:
            path = _next_to(self._path)
            fresh = Ed25519Signer.generate()
            path.unlink(missing_ok=True)
            fresh.save(path)
            _sync_directory(path.parent)
            self._others = [(fresh, path)]
        return self._others[0][0]

    def follow(self, state: State, origin: Origin, domain: str) -> None:
        """Goes over to another key that is at hand where the log says that it is in force, and this one is not."""
        if not why_barred(state, origin, domain, self._present.key_id):
            return
        for key, path in self._others:
            known = state.keys.knows(origin.controller, key.key_id)
            if known and not why_barred(state, origin, domain, key.key_id):
                self._take(key, path)
                return

    def _take(self, key: Ed25519Signer, path: Path) -> None:
        before, self._present = self._present, key
        self._others = [(k, p) for k, p in self._others if k is not key and p != self._path]
        _log.info(
            "the signing key has changed",
            extra={"old_key_id": before.key_id, "key_id": key.key_id},
        )
        if self._path is None or path == self._path:
            return
        try:
            path.replace(self._path)
            _sync_directory(path.parent)
        except OSError as error:
            _log.error(
                "the file of the new signing key could not be put in its place",
                extra={"error": str(error)},
            )


def _next_to(path: Path) -> Path:
    return path.with_name(f"{path.name}.next")


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
