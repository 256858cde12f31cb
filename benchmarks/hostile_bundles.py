"""Bundles under attack: files brought to a running controller over gRPC. Owns the genuine one and the forgeries;
`benchmarks.hostile` mutates and counts.

The controller is a region that has nothing yet of what its zone wrote, so that every event that gets in is seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import grpc
import zstandard
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from airgap.layout import HEADER_BYTES, header, signed_form
from benchmarks.cut_off_zone import REGION, ZONE, plans, region_from_before
from benchmarks.hostile_zone import TIMEOUT_S, exported, key_of
from benchmarks.resident import resident_mib
from controller.signing import Ed25519Signer
from deploy.local_federation import LocalFederation
from souverix.bundle.v1 import bundle_pb2
from souverix.bundle.v1 import bundle_service_pb2 as service
from souverix.bundle.v1.bundle_service_pb2_grpc import BundleServiceStub
from souverix.federation.v1 import federation_service_pb2 as federation_service
from souverix.federation.v1.federation_service_pb2_grpc import FederationServiceStub
from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverix.fleet.v1.fleet_service_pb2_grpc import FleetServiceStub

PIECE_BYTES = 1024 * 1024

#: Statuses of a server that failed, rather than refused.
FAILED = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE})

#: What a hostile exporter makes of a few kilobytes.
BOMB_BYTES = 256 * 1024 * 1024


@contextmanager
def bundles(directory: Path) -> Iterator[Bundles]:
    """A running region, and a bundle of its zone."""
    with LocalFederation(directory / "federation", plans("manual")) as federation:
        genuine = exported(federation)
        with (
            region_from_before(federation),
            grpc.insecure_channel(federation.address(REGION)) as channel,
        ):
            yield Bundles(federation, channel, genuine)


class Bundles:
    """Files brought to the region."""

    def __init__(self, federation: LocalFederation, channel: grpc.Channel, genuine: bytes) -> None:
        self.originals = [genuine]
        self._region = federation.plan(REGION).controller
        self._signer = key_of(federation, ZONE)
        self._pid = federation.processes[f"{REGION}/r1"].pid
        self._bundles = BundleServiceStub(channel)
        self._streams = FederationServiceStub(channel)
        self._nodes = FleetServiceStub(channel)

    def crafted(self) -> Iterator[bytes]:
        """Files that their exporter, or somebody else, signed with something wrong in them."""
        genuine = self.originals[0]
        manifest, segments = _manifest_of(genuine), _segments_of(genuine)
        stranger = Ed25519Signer.generate()
        yield _signed(manifest, segments, stranger)
        yield _signed(manifest, segments, stranger, self._signer.key_id)
        for spoil in _SPOILED:
            wrong = bundle_pb2.Manifest()
            wrong.CopyFrom(manifest)
            spoil(wrong)
            yield _signed(wrong, segments, self._signer)
        yield _signed(manifest, segments[:-1], self._signer)
        yield _signed(manifest, segments + b"\0", self._signer)
        yield _signed(manifest, segments[::-1], self._signer)
        bomb = zstandard.ZstdCompressor(level=19).compress(bytes(BOMB_BYTES))
        for declared in (1, 1024 * 1024, BOMB_BYTES):
            wrong = bundle_pb2.Manifest()
            wrong.CopyFrom(manifest)
            del wrong.segments[1:]
            wrong.segments[0].size = len(bomb)
            wrong.segments[0].content_size = declared
            wrong.segments[0].sha256 = _sha256(bomb)
            yield _signed(wrong, bomb, self._signer)
        yield genuine[: HEADER_BYTES - 4] + b"\xff\xff\xff\xff" + genuine[HEADER_BYTES:]
        yield genuine + genuine
        yield b"SVXBNDL"
        yield b""

    def is_same(self, data: bytes, original: bytes) -> bool:
        """What was signed, by whom, and the segments: all else means nothing."""
        return _parts(data) == _parts(original)

    def take(self, data: bytes) -> str:
        """The reason, or ACCEPTED where anything was applied."""
        outcome = self._import(data, check_only=False)
        return "ACCEPTED" if outcome == "APPLIED" else outcome

    def is_genuine(self, original: bytes) -> bool:
        """Asks without taking it in."""
        return self._import(original, check_only=True) == "GOOD"

    def state(self) -> object:
        """All that others wrote and is held or in effect here, by number and chain hash, and the nodes that are known:
        none, so that none may be live.
        """
        listed = self._streams.ListStreams(
            federation_service.ListStreamsRequest(), timeout=TIMEOUT_S
        )
        known = self._nodes.ListNodes(fleet.ListNodesRequest(), timeout=TIMEOUT_S)
        return (
            [s.SerializeToString() for s in listed.streams if s.controller != self._region],
            [node.name for node in known.nodes],
        )

    def resident_mib(self) -> int:
        """Of the region's process."""
        return resident_mib(self._pid)

    def _import(self, data: bytes, *, check_only: bool) -> str:
        begin = service.ImportBegin(size=len(data), check_only=check_only)
        pieces = [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]
        requests = [
            service.ImportBundleRequest(begin=begin),
            *(service.ImportBundleRequest(data=piece) for piece in pieces),
        ]
        result = None
        try:
            for reply in self._bundles.ImportBundle(iter(requests), timeout=TIMEOUT_S):
                result = reply.result
        except grpc.RpcError as error:
            return _reason_of(error)
        assert result is not None
        return service.ImportOutcome.Name(result.outcome).removeprefix("IMPORT_OUTCOME_")


def _reason_of(error: grpc.RpcError) -> str:
    """The reason a call was refused for. Raises the error where the server failed."""
    if error.code() in FAILED:
        raise error
    status = rpc_status.from_call(cast(grpc.Call, error))
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    raise AssertionError(f"a refusal without a reason: {error}")


def _manifest_of(data: bytes) -> bundle_pb2.Manifest:
    signed = bundle_pb2.SignedManifest.FromString(data[HEADER_BYTES : _end_of_manifest(data)])
    return bundle_pb2.Manifest.FromString(signed.manifest)


def _segments_of(data: bytes) -> bytes:
    return data[_end_of_manifest(data) :]


def _end_of_manifest(data: bytes) -> int:
    return HEADER_BYTES + int.from_bytes(data[HEADER_BYTES - 4 : HEADER_BYTES], "big")


def _parts(data: bytes) -> object:
    try:
        signed = bundle_pb2.SignedManifest.FromString(data[HEADER_BYTES : _end_of_manifest(data)])
    except DecodeError:
        return data
    head = data[: HEADER_BYTES - 4]
    return head, signed.manifest, signed.key_id, signed.signature, _segments_of(data)


def _signed(
    manifest: bundle_pb2.Manifest, segments: bytes, signer: Ed25519Signer, key_id: str = ""
) -> bytes:
    said = manifest.SerializeToString()
    signed = bundle_pb2.SignedManifest(
        manifest=said, key_id=key_id or signer.key_id, signature=signer.sign(signed_form(said))
    ).SerializeToString()
    return header(len(signed)) + signed + segments


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _to_another(manifest: bundle_pb2.Manifest) -> None:
    manifest.audience = "region-b-control"


def _of_another(manifest: bundle_pb2.Manifest) -> None:
    manifest.exporter = "edge-zone-a2-control"


def _for_another_domain(manifest: bundle_pb2.Manifest) -> None:
    manifest.exporter_domain = "edge-zone-a2"


def _expired(manifest: bundle_pb2.Manifest) -> None:
    manifest.expire_time.FromMilliseconds(1)


def _without_time(manifest: bundle_pb2.Manifest) -> None:
    manifest.ClearField("expire_time")


def _no_volume(manifest: bundle_pb2.Manifest) -> None:
    manifest.volume = 0


def _range_beyond(manifest: bundle_pb2.Manifest) -> None:
    manifest.ranges[0].last_sequence += 1


def _range_twice(manifest: bundle_pb2.Manifest) -> None:
    manifest.ranges.append(manifest.ranges[0])


def _range_missing(manifest: bundle_pb2.Manifest) -> None:
    del manifest.ranges[0]


def _other_head(manifest: bundle_pb2.Manifest) -> None:
    manifest.ranges[0].chain_hash = bytes(32)


def _other_hash(manifest: bundle_pb2.Manifest) -> None:
    manifest.segments[0].sha256 = bytes(32)


def _endless(manifest: bundle_pb2.Manifest) -> None:
    manifest.segments[0].size = 2**32 - 1


def _encrypted(manifest: bundle_pb2.Manifest) -> None:
    manifest.encryption.ephemeral_public_key = bytes(32)


_SPOILED = (
    _to_another,
    _of_another,
    _for_another_domain,
    _expired,
    _without_time,
    _no_volume,
    _range_beyond,
    _range_twice,
    _range_missing,
    _other_head,
    _other_hash,
    _endless,
    _encrypted,
)
