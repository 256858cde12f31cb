"""The bytes of a bundle: magic number, limits, what is signed. Owns these; reads and writes nothing."""

from __future__ import annotations

from typing import Protocol

MAGIC = b"SVXBNDL"

#: Follows the magic number. A reader takes the versions it knows, and no other.
VERSION = 1

MANIFEST_TAG = b"souverix.bundle.v1\0"

#: Bytes before the signed manifest: magic number, version, length (big-endian).
HEADER_BYTES = len(MAGIC) + 1 + 4

#: Largest signed manifest: positions and ranges of some 60,000 streams, and the segments of the largest volume.
MAX_MANIFEST_BYTES = 16 * 1024 * 1024

#: Largest content of a segment. A reader holds one at a time; a run of the largest size fits with room.
MAX_CONTENT_BYTES = 2 * 1024 * 1024

#: A segment is closed at this size: large enough to compress well, half of what a reader takes.
SEGMENT_BYTES = 1024 * 1024

#: Segments of one volume: 64 GiB of content, more than any medium is filled with at once.
MAX_SEGMENTS = 65_536

#: Volumes of one export: a terabyte on the smallest sticks.
MAX_VOLUMES = 10_000

#: What encryption adds to a segment: the tag of AES-GCM.
TAG_BYTES = 16


#: Audience of an export of the audit log: no controller's id, so that none takes it in.
AUDITORS = "*auditors"


class ManifestSigner(Protocol):
    """The exporter's signing key."""

    @property
    def key_id(self) -> str:
        """Names the key."""

    def sign(self, message: bytes) -> bytes:
        """Signs a message (Ed25519)."""


def signed_form(manifest: bytes) -> bytes:
    """What the exporter signs."""
    return MANIFEST_TAG + manifest


def header(signed_manifest_bytes: int) -> bytes:
    """The bytes before the signed manifest."""
    return MAGIC + bytes([VERSION]) + signed_manifest_bytes.to_bytes(4, "big")


def file_name(set_id: str, volume: int) -> bytes:
    """Names one volume of an export, for encryption."""
    return f"{set_id}/{volume}".encode()
