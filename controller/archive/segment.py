"""What stands in one file of the archive: consecutive commits and their place in the log's chain. Owns the bytes; never
touches a file.

A header names the log, the offsets and the chain's hashes before the first and after the last commit; commits follow in
one zstd frame, their sizes first. The hashes between are not stored: they are computed from the one before, and must
come to the one after. So every reading proves that these commits are the log's.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import zstandard

from controller.log.errors import LogCorrupt
from controller.log.port import HASH_BYTES, MAX_COMMIT_BYTES, NONCE_BYTES, CommitAt, hash_after

#: Commits are gathered until they come to this: one is decompressed and proven in some 15 ms for a single commit of it.
SEGMENT_BYTES = 4 * 1024 * 1024

#: The same by number: what a store deletes in one transaction without holding up appends for long.
SEGMENT_COMMITS = 4096

#: The level above it which takes twice the time gains a tenth.
LEVEL = 3

_FORMAT = b"SVXSEG1\n"
_HEADER = struct.Struct(f">8s{NONCE_BYTES}sQII{HASH_BYTES}s{HASH_BYTES}s")
HEADER_BYTES = _HEADER.size

#: A size before each commit.
_SIZE = struct.Struct(">I")

#: Nothing larger was ever written.
_MAX_CONTENT_BYTES = SEGMENT_BYTES + MAX_COMMIT_BYTES + SEGMENT_COMMITS * _SIZE.size


@dataclass(frozen=True, slots=True)
class Segment:
    """Where consecutive commits lie in a log."""

    nonce: bytes
    first: int
    #: The offset after the last one.
    end: int
    hash_before: bytes
    hash_after: bytes
    #: Of the commits, uncompressed.
    commit_bytes: int


@dataclass(frozen=True, slots=True)
class SegmentContent:
    """A segment's commits, proven; `hashes` are those before each commit."""

    segment: Segment
    commits: Sequence[bytes]
    hashes: Sequence[bytes]

    def from_offset(self, offset: int, max_bytes: int) -> list[CommitAt]:
        """Commits from an offset within, of at most `max_bytes`, at least one."""
        found: list[CommitAt] = []
        left = max_bytes
        for at in range(offset - self.segment.first, len(self.commits)):
            left -= len(self.commits[at])
            if found and left < 0:
                break
            found.append((self.segment.first + at, self.commits[at]))
        return found


def segment_of(nonce: bytes, hash_before: bytes, commits: Sequence[CommitAt]) -> Segment:
    """The place of consecutive commits, at least one."""
    running = hash_before
    for _, commit in commits:
        running = hash_after(running, commit)
    size = sum(len(commit) for _, commit in commits)
    return Segment(nonce, commits[0][0], commits[-1][0] + 1, hash_before, running, size)


def encode_segment(segment: Segment, commits: Sequence[CommitAt]) -> bytes:
    """The bytes of a file."""
    header = _HEADER.pack(
        _FORMAT,
        segment.nonce,
        segment.first,
        len(commits),
        segment.commit_bytes,
        segment.hash_before,
        segment.hash_after,
    )
    sizes = b"".join(_SIZE.pack(len(commit)) for _, commit in commits)
    content = sizes + b"".join(commit for _, commit in commits)
    packed = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compress(content)
    return header + packed


def decode_header(data: bytes) -> Segment:
    """The place a file's header tells. Raises LogCorrupt."""
    if len(data) < HEADER_BYTES or not data.startswith(_FORMAT):
        raise LogCorrupt("it is no segment of a log that this release can read")
    _, nonce, first, count, size, before, after = _HEADER.unpack_from(data)
    return Segment(nonce, first, first + count, before, after, size)


def decode_segment(data: bytes) -> SegmentContent:
    """A file's commits, proven. Raises LogCorrupt."""
    segment = decode_header(data)
    packed = data[HEADER_BYTES:]
    try:
        if not 0 <= zstandard.frame_content_size(packed) <= _MAX_CONTENT_BYTES:
            raise LogCorrupt("it is larger than any segment")
        content = zstandard.ZstdDecompressor().decompress(packed)
    except zstandard.ZstdError as error:
        raise LogCorrupt(f"it cannot be decompressed: {error}") from error
    count = segment.end - segment.first
    at = count * _SIZE.size
    if len(content) != at + segment.commit_bytes:
        raise LogCorrupt("it is cut short")
    commits: list[bytes] = []
    hashes: list[bytes] = []
    running = segment.hash_before
    for (size,) in _SIZE.iter_unpack(content[:at]):
        commit = content[at : at + size]
        at += size
        commits.append(commit)
        hashes.append(running)
        running = hash_after(running, commit)
    if running != segment.hash_after or at != len(content):
        raise LogCorrupt("its commits do not come to the hash they are to have")
    return SegmentContent(segment, commits, hashes)
