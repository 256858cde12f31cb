"""The archive's directory. Owns the names of its files and that a file is either whole and durable, or not there; never
decides what is archived, and never deletes a segment.

A file is named by the offsets of its commits and the log's hash after the last one, which stands for all before it: no
other log and no other past has a file of that name. So files may be copied from replica to replica, and a directory may
be shared by them. The files are the index: there is nothing beside them that could say otherwise. All calls block.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from controller.archive.segment import (
    HEADER_BYTES,
    Segment,
    SegmentContent,
    decode_header,
    decode_segment,
    encode_segment,
)
from controller.log.errors import LogCorrupt
from controller.log.port import CommitAt

SUFFIX = ".segment"


class ArchiveDirectory:
    """The files below one path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def file_of(self, segment: Segment) -> Path:
        """Where a segment is, or will be."""
        name = f"{segment.first:016x}-{segment.end:016x}-{segment.hash_after.hex()}{SUFFIX}"
        return self.path / name

    def segments(self, nonce: bytes) -> list[Segment]:
        """All segments of a log that are there, in no order; what is no segment is left out. Raises OSError."""
        found: list[Segment] = []
        if not self.path.exists():
            return found
        for path in self.path.iterdir():
            if path.suffix != SUFFIX:
                continue
            with path.open("rb") as file:
                header = file.read(HEADER_BYTES)
            try:
                segment = decode_header(header)
            except LogCorrupt:
                continue
            if segment.nonce == nonce and self.file_of(segment) == path:
                found.append(segment)
        return found

    def size_of(self, segments: Iterable[Segment]) -> int:
        """What segments take on disk, in bytes. Raises OSError."""
        return sum(self.file_of(segment).stat().st_size for segment in segments)

    def write(self, segment: Segment, commits: Sequence[CommitAt]) -> None:
        """Makes a segment durable, and reads it back. Raises OSError, LogCorrupt: it does not stand for sure."""
        self._make()
        path = self.file_of(segment)
        # Two replicas may share the directory, and be one process in tests.
        draft = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.new")
        try:
            with draft.open("wb") as file:
                file.write(encode_segment(segment, commits))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        _fsync(self.path)
        if self.read(segment).commits != [commit for _, commit in commits]:
            raise LogCorrupt(f"{path} does not hold what was written to it")

    def read(self, segment: Segment) -> SegmentContent:
        """A segment's commits, proven. Raises OSError, LogCorrupt."""
        path = self.file_of(segment)
        try:
            content = decode_segment(path.read_bytes())
        except LogCorrupt as error:
            raise LogCorrupt(
                f"{path}: {error}; copy it from another replica's archive or from a backup"
            ) from error
        if content.segment != segment:
            raise LogCorrupt(f"{path} holds another part of the log than its name says")
        return content

    def _make(self) -> None:
        missing = [self.path, *self.path.parents]
        missing = missing[: next(i for i, path in enumerate(missing) if path.exists())]
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in missing:
            _fsync(path.parent)


def _fsync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
