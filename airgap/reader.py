"""Reads a bundle. Owns every check that needs nothing but the file and the exporter's key; never trusts a length, a
name or an order that the file states, and holds one segment in memory.

A manifest is returned only when a known key signed it, a segment only when it is the one that the manifest names. That
runs follow one another as declared is checked while they are read, and is known at the end only: so whoever takes
events in reads a file to the end once before, and again to take them. What is read again is held to the hashes of its
segments, which say that it is what was read before, byte for byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

import zstandard
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from google.protobuf.message import DecodeError

from airgap.encryption import SegmentCipher
from airgap.errors import BundleRefused, Reason
from airgap.layout import (
    HEADER_BYTES,
    MAGIC,
    MAX_CONTENT_BYTES,
    MAX_MANIFEST_BYTES,
    MAX_SEGMENTS,
    MAX_VOLUMES,
    TAG_BYTES,
    VERSION,
    file_name,
    signed_form,
)
from federation.chain import extend
from federation.codec import stream_from_message
from federation.errors import InvalidWrite
from federation.identifiers import StreamId
from souverix.bundle.v1 import bundle_pb2

HASH_BYTES = 32


class ExporterKeys(Protocol):
    """The keys of controllers that are known here."""

    def signature_is_good(
        self, controller: str, key_id: str, message: bytes, signature: bytes
    ) -> bool | None:
        """Tells whether that key of the controller made the signature; None: no such key is known."""


@dataclass(slots=True)
class _Progress:
    """How far a declared range has been read."""

    declared: bundle_pb2.StreamRange
    next_sequence: int
    chain_hash: bytes | None = None


class BundleReader:
    """One open file. `manifest` is the signed one. Raises `BundleRefused`, `OSError`."""

    def __init__(self, file: BinaryIO, keys: ExporterKeys) -> None:
        self._file = file
        self.manifest = _signed_manifest(_read_head(file), keys)
        _check_manifest(self.manifest)
        self._segments_at = file.tell()
        self._followed = False

    def contents(self, private: X25519PrivateKey | None = None) -> Iterator[bundle_pb2.Content]:
        """The segments' contents in order, from the first; ends only when all is as the manifest declares. Each run
        follows the one of its stream before it in the file.

        `private` is the audience's key, for a file that is encrypted.
        """
        if self._followed:
            yield from self._segments(private)
            return
        progress = {
            stream_from_message(r.stream): _Progress(r, r.first_sequence)
            for r in self.manifest.ranges
        }
        for content in self._segments(private):
            _follow(content, progress)
            yield content
        for stream, read in progress.items():
            if read.next_sequence != read.declared.last_sequence + 1:
                raise BundleRefused(
                    Reason.NOT_AS_DECLARED, f"{stream} ends before what the manifest declares"
                )
        self._followed = True

    def _segments(self, private: X25519PrivateKey | None) -> Iterator[bundle_pb2.Content]:
        """What the manifest names, segment by segment, and nothing else."""
        manifest = self.manifest
        cipher = _cipher_of(manifest, private)
        decompressor = zstandard.ZstdDecompressor()
        self._file.seek(self._segments_at)
        for number, segment in enumerate(manifest.segments):
            stored = self._file.read(segment.size)
            if len(stored) != segment.size:
                raise BundleRefused(
                    Reason.TRUNCATED,
                    f"the file ends within segment {number + 1} of {len(manifest.segments)}",
                )
            if hashlib.sha256(stored).digest() != segment.sha256:
                raise BundleRefused(
                    Reason.HASH_MISMATCH,
                    f"segment {number + 1} is not the one that was signed; copy the file again",
                )
            if cipher is not None:
                stored = cipher.decrypt(number, stored)
            yield _content(decompressor, stored, segment, number)
        if self._file.read(1):
            raise BundleRefused(Reason.TRAILING_BYTES, "bytes follow the last segment")


def _read_head(file: BinaryIO) -> bytes:
    """The signed manifest's bytes."""
    head = file.read(HEADER_BYTES)
    if not head.startswith(MAGIC) or len(head) < HEADER_BYTES:
        raise BundleRefused(Reason.NOT_A_BUNDLE, "the file does not begin as a bundle does")
    version = head[len(MAGIC)]
    if version != VERSION:
        raise BundleRefused(
            Reason.VERSION_UNKNOWN,
            f"the file is of version {version}; this release reads version {VERSION}",
        )
    size = int.from_bytes(head[len(MAGIC) + 1 :], "big")
    if size > MAX_MANIFEST_BYTES:
        raise BundleRefused(
            Reason.TOO_LARGE, f"a manifest of {size} bytes; at most {MAX_MANIFEST_BYTES} are read"
        )
    signed = file.read(size)
    if len(signed) != size:
        raise BundleRefused(Reason.TRUNCATED, "the file ends within its manifest")
    return signed


def _signed_manifest(raw: bytes, keys: ExporterKeys) -> bundle_pb2.Manifest:
    manifest = bundle_pb2.Manifest()
    try:
        signed = bundle_pb2.SignedManifest.FromString(raw)
        # Who is said to have signed must be known before the signature can be checked; nothing else of it is looked at.
        manifest.MergeFromString(signed.manifest)
    except DecodeError as error:
        raise BundleRefused(Reason.MALFORMED, "the manifest is no message") from error
    good = keys.signature_is_good(
        manifest.exporter, signed.key_id, signed_form(signed.manifest), signed.signature
    )
    if good is None:
        raise BundleRefused(
            Reason.KEY_UNKNOWN,
            f"no key {signed.key_id[:16]!r} of a controller {manifest.exporter[:63]!r} is known here",
        )
    if not good:
        raise BundleRefused(
            Reason.SIGNATURE_INVALID, f"{manifest.exporter} did not sign this manifest"
        )
    return manifest


def _check_manifest(manifest: bundle_pb2.Manifest) -> None:
    """Refuses a manifest that contradicts itself; its signer may err, or be hostile."""
    if not 1 <= manifest.volume <= manifest.volumes <= MAX_VOLUMES:
        raise BundleRefused(
            Reason.MALFORMED, f"volume {manifest.volume} of {manifest.volumes} is none"
        )
    if len(manifest.segments) > MAX_SEGMENTS:
        raise BundleRefused(Reason.TOO_LARGE, f"{len(manifest.segments)} segments are too many")
    if not manifest.HasField("expire_time") or not manifest.HasField("create_time"):
        raise BundleRefused(Reason.MALFORMED, "the manifest does not say from when until when")
    for segment in manifest.segments:
        if not 0 < segment.content_size <= MAX_CONTENT_BYTES or not (
            0 < segment.size <= _most_stored(segment.content_size)
        ):
            raise BundleRefused(Reason.TOO_LARGE, "a segment is larger than any may be")
    seen: set[StreamId] = set()
    for declared in manifest.ranges:
        try:
            stream = stream_from_message(declared.stream)
        except InvalidWrite as error:
            raise BundleRefused(Reason.MALFORMED, str(error)) from error
        if (
            stream in seen
            or not 1 <= declared.first_sequence <= declared.last_sequence
            or len(declared.chain_hash) != HASH_BYTES
        ):
            raise BundleRefused(Reason.MALFORMED, f"the range of {stream} is none")
        seen.add(stream)


def _most_stored(content_size: int) -> int:
    """Most bytes that a content takes in the file: what cannot be compressed grows by a little."""
    return content_size + content_size // 128 + 1024 + TAG_BYTES


def _cipher_of(
    manifest: bundle_pb2.Manifest, private: X25519PrivateKey | None
) -> SegmentCipher | None:
    if not manifest.HasField("encryption"):
        return None
    if private is None:
        raise BundleRefused(
            Reason.NOT_DECRYPTABLE,
            f"it is encrypted to key {manifest.encryption.recipient_key_id[:16]}, and there is no key here",
        )
    name = file_name(manifest.set_id, manifest.volume)
    return SegmentCipher.of(manifest.encryption, private, name)


def _content(
    decompressor: zstandard.ZstdDecompressor,
    stored: bytes,
    segment: bundle_pb2.Segment,
    number: int,
) -> bundle_pb2.Content:
    """A segment's content. Its size is checked before anything is decompressed."""
    try:
        if zstandard.frame_content_size(stored) != segment.content_size:
            raise BundleRefused(
                Reason.NOT_AS_DECLARED, f"segment {number + 1} is not of the size declared"
            )
        plain = decompressor.decompress(stored, max_output_size=segment.content_size)
        return bundle_pb2.Content.FromString(plain)
    except (zstandard.ZstdError, DecodeError) as error:
        raise BundleRefused(
            Reason.MALFORMED, f"segment {number + 1} cannot be read: {error}"
        ) from error


def _follow(content: bundle_pb2.Content, progress: dict[StreamId, _Progress]) -> None:
    """Holds runs against the declared ranges, and against the chain where what came before is in the file too."""
    for run in content.runs:
        try:
            stream = stream_from_message(run.stream)
        except InvalidWrite as error:
            raise BundleRefused(Reason.MALFORMED, str(error)) from error
        read = progress.get(stream)
        if (
            read is None
            or run.first_sequence != read.next_sequence
            or not run.events
            or run.seal.sequence != run.first_sequence + len(run.events) - 1
            or run.seal.sequence > read.declared.last_sequence
        ):
            raise BundleRefused(
                Reason.NOT_AS_DECLARED, f"a run of {stream} is not what the manifest declares"
            )
        if (
            read.chain_hash is not None
            and extend(read.chain_hash, run.events) != run.seal.chain_hash
        ):
            raise BundleRefused(
                Reason.CHAIN_BROKEN,
                f"event {run.first_sequence} of {stream} does not follow the one before it",
            )
        read.chain_hash = run.seal.chain_hash
        read.next_sequence = run.seal.sequence + 1
        if (
            run.seal.sequence == read.declared.last_sequence
            and run.seal.chain_hash != read.declared.chain_hash
        ):
            raise BundleRefused(
                Reason.CHAIN_BROKEN, f"the head of {stream} is not the one declared"
            )
