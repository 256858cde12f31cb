from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from airgap.writer import MIN_VOLUME_BYTES, BundleWriter
from souverix.sync.v1 import sync_pb2
from tests.unit.airgap.bundle_files import Export, manifest_of


def test_what_was_written_is_read_with_the_same_bytes(tmp_path: Path) -> None:
    export = Export(tmp_path)
    [volume] = export.written()
    assert export.read(volume.read_bytes()) == export.runs


def test_a_manifest_names_the_ranges_of_all_streams_and_their_heads(tmp_path: Path) -> None:
    export = Export(tmp_path)
    [volume] = export.written()
    manifest = manifest_of(volume.read_bytes())
    last = {run.stream.SerializeToString(): run.seal for run in export.runs}
    assert len(manifest.ranges) == len(last)
    for declared in manifest.ranges:
        seal = last[declared.stream.SerializeToString()]
        assert declared.first_sequence == 1
        assert (declared.last_sequence, declared.chain_hash) == (seal.sequence, seal.chain_hash)


def test_a_bundle_without_events_is_a_file_all_the_same(tmp_path: Path) -> None:
    export = Export(tmp_path)
    [volume] = BundleWriter(tmp_path, export.head(), export.region.signer).finish()
    assert export.read(volume.read_bytes()) == []
    assert manifest_of(volume.read_bytes()).volumes == 1


def test_volumes_keep_to_their_size_and_hold_the_whole_between_them(tmp_path: Path) -> None:
    export = Export(tmp_path, commits=0)
    for number in range(60):
        # What cannot be compressed: each run weighs what it holds.
        noise = "".join(chr(33 + (i * i * 7 + i * number * 31 + i // 7) % 90) for i in range(300))
        export.region.write_policy("region-a", noise)
    writer = BundleWriter(
        tmp_path, export.head(), export.region.signer, volume_bytes=MIN_VOLUME_BYTES
    )
    for run in export.runs:
        writer.put_run(run)
    for number in range(12):
        block = b"".join(
            (number * 1_000_003 + i * i * i).to_bytes(8, "big") for i in range(125_000)
        )
        writer.put_value(sync_pb2.Chunk(digest=f"sha256:{number}", data=block))
    volumes = writer.finish()
    assert len(volumes) > 1
    assert all(volume.stat().st_size <= MIN_VOLUME_BYTES for volume in volumes)
    manifests = [manifest_of(volume.read_bytes()) for volume in volumes]
    assert [m.volume for m in manifests] == list(range(1, len(volumes) + 1))
    assert {m.volumes for m in manifests} == {len(volumes)}
    assert [run for v in volumes for run in export.read(v.read_bytes())] == export.runs


def test_an_encrypted_bundle_is_read_with_the_key_it_was_made_for(tmp_path: Path) -> None:
    export, private = Export(tmp_path), X25519PrivateKey.generate()
    [volume] = export.written(private)
    data = volume.read_bytes()
    assert export.read(data, private) == export.runs
    assert export.runs[-1].events[0] not in data


def test_a_volume_too_small_to_be_useful_is_refused(tmp_path: Path) -> None:
    export = Export(tmp_path)
    with pytest.raises(ValueError, match="at least"):
        BundleWriter(tmp_path, export.head(), export.region.signer, MIN_VOLUME_BYTES - 1)


def test_a_run_that_does_not_follow_the_one_before_is_not_written(tmp_path: Path) -> None:
    export = Export(tmp_path)
    writer = BundleWriter(tmp_path, export.head(), export.region.signer)
    policies = [run for run in export.runs if run.first_sequence > 1]
    for run in (policies[0], policies[2]):
        writer.put_run(run)
    with pytest.raises(ValueError, match="goes on at"):
        writer.finish()
    writer.discard()
    assert list(tmp_path.iterdir()) == []
