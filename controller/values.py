"""Large values: content-addressed chunks on local disk, outside the event log. Owns files named by their SHA-256; knows
nothing of what they mean or who names them.

A chunk is there once it is whole: written beside, flushed to disk, renamed, and its directory flushed. Replicas of one
controller may share a directory, for two writers of one name write the same bytes. What a damaged disk returns is not
passed on: chunks are verified when they are read.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

#: Largest chunk, as the contract of the node link says.
MAX_CHUNK_BYTES = 256 * 1024

#: Room for all chunks: the package lists of 20,000 hosts of 200 KB each, little enough for a zone's disk.
MAX_STORE_BYTES = 4 * 1024 * 1024 * 1024

DIGEST_PATTERN = re.compile(r"sha256:[0-9a-f]{64}")

#: Suffix of files that are being written.
PARTIAL = ".partial"


class ValueStoreError(Exception):
    """Root of the store's errors."""


class InvalidChunk(ValueStoreError, ValueError):
    """The sender must change it: the bytes are not those of the digest, or too many."""


class ChunkMissing(ValueStoreError, KeyError):
    """Somebody else must be asked: the chunk is not here, or what was here was damaged."""


class StoreFull(ValueStoreError):
    """An operator must make room, or nodes must report less."""


class ValueStore:
    """The chunks below one directory. Its disk work runs in worker threads."""

    def __init__(self, directory: Path, max_bytes: int = MAX_STORE_BYTES) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._size_bytes: int | None = None
        self._writing = asyncio.Lock()

    async def get(self, digest: str) -> bytes:
        """A chunk. Raises `ChunkMissing`, `InvalidChunk`, `OSError`."""
        return await asyncio.to_thread(self._read, self._path(digest), digest)

    async def whole(self, chunks: Iterable[str], max_bytes: int) -> bytes | None:
        """The value that these chunks make up, in order; None when one is not here.

        Each chunk is verified; that they are the right ones is the caller's to check, by the value's own digest. Raises
        `InvalidChunk` when the value is larger than `max_bytes`.
        """
        data = bytearray()
        for chunk in chunks:
            try:
                data += await self.get(chunk)
            except (ChunkMissing, OSError):
                return None
            if len(data) > max_bytes:
                raise InvalidChunk(f"the value is larger than {max_bytes} bytes")
        return bytes(data)

    async def missing(self, digests: Iterable[str]) -> list[str]:
        """Of the digests, those whose chunks are not here, each once, in order.

        A text that is no digest names no chunk, and is left out.
        """
        paths = {d: self._path(d) for d in digests if DIGEST_PATTERN.fullmatch(d)}
        return await asyncio.to_thread(
            lambda: [d for d, path in paths.items() if not path.exists()]
        )

    async def put(self, digest: str, data: bytes) -> None:
        """Keeps a chunk; durable on return. One that is here already is left as it is.

        Raises `InvalidChunk`, `StoreFull`, `OSError`.
        """
        path = self._path(digest)
        if len(data) > MAX_CHUNK_BYTES:
            raise InvalidChunk(
                f"chunk {digest} is {len(data)} bytes; at most {MAX_CHUNK_BYTES} are allowed"
            )
        if digest_of(data) != digest:
            raise InvalidChunk(f"the bytes sent as chunk {digest} have another digest")
        async with self._writing:
            await asyncio.to_thread(self._write, path, data)

    def _path(self, digest: str) -> Path:
        if not DIGEST_PATTERN.fullmatch(digest):
            raise InvalidChunk(f"{digest[:80]!r} is no digest (sha256: and 64 hexadecimal digits)")
        name = digest.partition(":")[2]
        return self._directory / name[:2] / name

    def _read(self, path: Path, digest: str) -> bytes:
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise ChunkMissing(f"chunk {digest} is not here") from error
        if digest_of(data) != digest:
            path.unlink(missing_ok=True)
            raise ChunkMissing(f"chunk {digest} was damaged on disk, and was removed")
        return data

    def _write(self, path: Path, data: bytes) -> None:
        if self._size_bytes is None:
            self._size_bytes = self._measure()
        if path.exists():
            return
        if self._size_bytes + len(data) > self._max_bytes:
            raise StoreFull(
                f"the store of large values holds {self._size_bytes} of {self._max_bytes} bytes"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(suffix=PARTIAL, dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(partial).replace(path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
        for directory in (path.parent, self._directory):
            _flush_directory(directory)
        self._size_bytes += len(data)

    def _measure(self) -> int:
        """Bytes held. What an interrupted write left behind counts, and is harmless."""
        return sum(path.stat().st_size for path in self._directory.glob("??/*"))


def digest_of(data: bytes) -> str:
    """The name of these bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
