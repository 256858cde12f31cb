"""Bundles for the tests of the file: real runs of a controller in memory, written and read with real keys."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from airgap.layout import HEADER_BYTES, header, signed_form
from airgap.reader import BundleReader
from airgap.writer import BundleWriter
from controller.signing import Ed25519Signer, Ed25519Verifier
from souverix.bundle.v1 import bundle_pb2
from souverix.event.v1 import event_pb2
from tests.federation_fixture import START_MS, MemoryController, controller_below, root_controller

SET_ID = "0123456789abcdef0123456789abcdef"


class KnownKeys:
    """The key of one exporter."""

    def __init__(self, controller: str, signer: Ed25519Signer) -> None:
        self._controller = controller
        self._signer = signer
        self._verifier = Ed25519Verifier()

    def signature_is_good(
        self, controller: str, key_id: str, message: bytes, signature: bytes
    ) -> bool | None:
        if (controller, key_id) != (self._controller, self._signer.key_id):
            return None
        return self._verifier.verify(self._signer.public_key, message, signature)


class Export:
    """A region with some events, and bundles of them."""

    def __init__(self, directory: Path, commits: int = 5, body_bytes: int = 20) -> None:
        self.directory = directory
        self.region: MemoryController = controller_below(
            root_controller(), "region-a-control", "region-a"
        )
        for i in range(commits):
            self.region.write_policy("region-a", f"{i}-{'x' * body_bytes}")
        self.keys = KnownKeys(self.region.name, self.region.signer)

    @property
    def runs(self) -> list[event_pb2.Run]:
        return [run for commit in self.region.commits for run in commit.runs]

    def head(self) -> bundle_pb2.Manifest:
        manifest = bundle_pb2.Manifest(
            set_id=SET_ID,
            exporter=self.region.name,
            exporter_domain="region-a",
            audience="edge-zone-a1-control",
            audience_domain="edge-zone-a1",
            counter=7,
        )
        manifest.create_time.FromMilliseconds(START_MS)
        manifest.expire_time.FromMilliseconds(START_MS + 1000)
        return manifest

    def written(
        self, recipient: X25519PrivateKey | None = None, volume_bytes: int | None = None
    ) -> list[Path]:
        public = None if recipient is None else recipient.public_key().public_bytes_raw()
        writer = BundleWriter(self.directory, self.head(), self.region.signer, volume_bytes, public)
        for run in self.runs:
            writer.put_run(run)
        return writer.finish()

    def read(self, data: bytes, private: X25519PrivateKey | None = None) -> list[event_pb2.Run]:
        """All runs of a file's bytes. Raises `BundleRefused`."""
        return list(runs_of(BundleReader(io.BytesIO(data), self.keys), private))

    def signed_again(
        self, data: bytes, manifest: bundle_pb2.Manifest, signer: Ed25519Signer | None = None
    ) -> bytes:
        """A file with another manifest, signed as the exporter would, before the same segments."""
        signer = signer or self.region.signer
        said = manifest.SerializeToString()
        signed = bundle_pb2.SignedManifest(
            manifest=said, key_id=signer.key_id, signature=signer.sign(signed_form(said))
        ).SerializeToString()
        return header(len(signed)) + signed + segments_of(data)


def runs_of(
    reader: BundleReader, private: X25519PrivateKey | None = None
) -> Iterator[event_pb2.Run]:
    for content in reader.contents(private):
        yield from content.runs


def manifest_of(data: bytes) -> bundle_pb2.Manifest:
    size = int.from_bytes(data[HEADER_BYTES - 4 : HEADER_BYTES], "big")
    signed = bundle_pb2.SignedManifest.FromString(data[HEADER_BYTES : HEADER_BYTES + size])
    return bundle_pb2.Manifest.FromString(signed.manifest)


def segments_of(data: bytes) -> bytes:
    size = int.from_bytes(data[HEADER_BYTES - 4 : HEADER_BYTES], "big")
    return data[HEADER_BYTES + size :]
