"""Writes the volumes of one export. Owns segments, hashes, ranges and the cut into volumes; never chooses what is
exported, and keeps no more than one segment in memory.

How many volumes there are and what each holds is known at the end only, and the manifest stands first. So segments go
to a temporary file beside the volume, and are copied behind the manifest when the export is complete.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import zstandard

from airgap.encryption import SegmentCipher
from airgap.errors import BundleRefused, Reason
from airgap.layout import (
    MAX_CONTENT_BYTES,
    MAX_MANIFEST_BYTES,
    MAX_SEGMENTS,
    MAX_VOLUMES,
    SEGMENT_BYTES,
    TAG_BYTES,
    ManifestSigner,
    file_name,
    header,
    signed_form,
)
from federation.codec import stream_from_message
from federation.identifiers import StreamId
from souverix.bundle.v1 import bundle_pb2
from souverix.event.v1 import event_pb2
from souverix.sync.v1 import sync_pb2

#: Compression of segments. Events are alike, and level 1 makes a fifth of them at the speed of the disk.
ZSTD_LEVEL = 1

#: Smallest volume that is cut: some segments and a manifest with many ranges.
MIN_VOLUME_BYTES = 4 * 1024 * 1024

#: Bytes copied at once.
COPY_BYTES = 1024 * 1024


@dataclass(slots=True)
class _Volume:
    """One volume under way: its segments on disk, and what its manifest will say of them."""

    number: int
    body: Path
    cipher: SegmentCipher | None
    encryption: bundle_pb2.Encryption | None
    ranges: dict[StreamId, bundle_pb2.StreamRange] = field(default_factory=dict)
    segments: list[bundle_pb2.Segment] = field(default_factory=list)
    size: int = 0


class BundleWriter:
    """One export. `head` is the manifest but for volumes, ranges, segments and encryption.

    Runs of each stream are given in order and without gaps. Raises `OSError`, also for a full disk; `discard` then
    leaves nothing behind. `recipient` is the audience's X25519 public key, None: segments are not encrypted.
    """

    def __init__(
        self,
        directory: Path,
        head: bundle_pb2.Manifest,
        signer: ManifestSigner,
        volume_bytes: int | None = None,
        recipient: bytes | None = None,
    ) -> None:
        if volume_bytes is not None and volume_bytes < MIN_VOLUME_BYTES:
            raise ValueError(f"a volume has at least {MIN_VOLUME_BYTES} bytes")
        self.events = 0
        self._directory = directory
        self._head = head
        self._signer = signer
        self._volume_bytes = volume_bytes
        self._recipient = recipient
        self._compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        self._content = bundle_pb2.Content()
        self._content_bytes = 0
        self._content_events = 0
        self._volumes: list[_Volume] = []

    def put_run(self, run: event_pb2.Run) -> None:
        """Adds a run."""
        size = sum(map(len, run.events))
        self._make_room(size)
        self._content.runs.append(run)
        self._content_bytes += size
        self._content_events += len(run.events)
        self.events += len(run.events)

    def put_value(self, chunk: sync_pb2.Chunk) -> None:
        """Adds a large value."""
        self._make_room(len(chunk.data))
        self._content.values.append(chunk)
        self._content_bytes += len(chunk.data)

    def finish(self) -> list[Path]:
        """Writes the volumes, numbered from 1; at least one, which holds no events where there were none."""
        self._flush()
        if not self._volumes:
            self._begin_volume()
        if len(self._volumes) > MAX_VOLUMES:
            raise BundleRefused(
                Reason.TOO_LARGE,
                f"{len(self._volumes)} volumes are more than {MAX_VOLUMES}; choose a larger size",
            )
        return [self._finished(volume) for volume in self._volumes]

    def discard(self) -> None:
        """Removes what is unfinished."""
        for volume in self._volumes:
            volume.body.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        if self._content_bytes and self._content_bytes + size > SEGMENT_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not (self._content.runs or self._content.values):
            return
        plain = self._content.SerializeToString()
        if len(plain) > MAX_CONTENT_BYTES:
            raise BundleRefused(
                Reason.TOO_LARGE, f"a run or value makes a segment of {len(plain)} bytes"
            )
        stored = self._compressor.compress(plain)
        volume = self._volume_for(len(stored))
        if volume.cipher is not None:
            stored = volume.cipher.encrypt(len(volume.segments), stored)
        with volume.body.open("ab") as body:
            body.write(stored)
        volume.size += len(stored)
        volume.segments.append(
            bundle_pb2.Segment(
                size=len(stored),
                sha256=hashlib.sha256(stored).digest(),
                content_size=len(plain),
                events=self._content_events,
            )
        )
        for run in self._content.runs:
            _extend(volume.ranges, run)
        self._content = bundle_pb2.Content()
        self._content_bytes = self._content_events = 0

    def _volume_for(self, size: int) -> _Volume:
        """The volume that a segment of `size` bytes goes to: the last one, or a new one where it is full."""
        last = self._volumes[-1] if self._volumes else None
        room = self._volume_bytes
        if last is None or len(last.segments) == MAX_SEGMENTS:
            return self._begin_volume()
        if (
            room is not None
            and last.segments
            and last.size + size + TAG_BYTES + _manifest_bytes(last) > room
        ):
            return self._begin_volume()
        return last

    def _begin_volume(self) -> _Volume:
        number = len(self._volumes) + 1
        cipher, encryption = None, None
        if self._recipient is not None:
            name = file_name(self._head.set_id, number)
            cipher, encryption = SegmentCipher.to(self._recipient, name)
        body = self._directory / f"{self._head.set_id}-{number:05}.segments"
        body.touch(exist_ok=False)
        volume = _Volume(number, body, cipher, encryption)
        self._volumes.append(volume)
        return volume

    def _finished(self, volume: _Volume) -> Path:
        """Writes a volume behind its manifest, durably, and removes its temporary file."""
        manifest = bundle_pb2.Manifest()
        manifest.CopyFrom(self._head)
        manifest.volume = volume.number
        manifest.volumes = len(self._volumes)
        manifest.ranges.extend(volume.ranges.values())
        manifest.segments.extend(volume.segments)
        if volume.encryption is not None:
            manifest.encryption.CopyFrom(volume.encryption)
        said = manifest.SerializeToString()
        signed = bundle_pb2.SignedManifest(
            manifest=said,
            key_id=self._signer.key_id,
            signature=self._signer.sign(signed_form(said)),
        ).SerializeToString()
        if len(signed) > MAX_MANIFEST_BYTES:
            raise BundleRefused(
                Reason.TOO_LARGE, f"the manifest of {len(volume.ranges)} streams is too large"
            )
        path = self._directory / f"{self._head.set_id}-{volume.number:05}.svxb"
        with path.open("xb") as file, volume.body.open("rb") as body:
            file.write(header(len(signed)))
            file.write(signed)
            shutil.copyfileobj(body, file, COPY_BYTES)
            file.flush()
            os.fsync(file.fileno())
        volume.body.unlink()
        return path


def _manifest_bytes(volume: _Volume) -> int:
    """About what a volume's manifest takes, less `held`: ranges and segments weigh some 150 and 60 bytes."""
    return 150 * len(volume.ranges) + 60 * len(volume.segments)


def _extend(ranges: dict[StreamId, bundle_pb2.StreamRange], run: event_pb2.Run) -> None:
    """Takes a run into the ranges of its volume."""
    stream = stream_from_message(run.stream)
    held = ranges.get(stream)
    if held is None:
        held = ranges[stream] = bundle_pb2.StreamRange(
            stream=run.stream, first_sequence=run.first_sequence
        )
    elif run.first_sequence != held.last_sequence + 1:
        raise ValueError(f"{stream} goes on at {run.first_sequence} after {held.last_sequence}")
    held.last_sequence = run.seal.sequence
    held.chain_hash = run.seal.chain_hash
