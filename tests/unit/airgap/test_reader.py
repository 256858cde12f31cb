"""Every way in which a file can be wrong is refused with its own reason, and nothing else comes out of it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from airgap.errors import BundleRefused, Reason
from airgap.layout import HEADER_BYTES, MAGIC, MAX_CONTENT_BYTES, MAX_MANIFEST_BYTES, header
from controller.signing import Ed25519Signer
from souverix.bundle.v1 import bundle_pb2
from tests.unit.airgap.bundle_files import Export, manifest_of, segments_of

#: Mutants of each kind. The seed stands in a failure's message.
MUTANTS = 1_500
SEED = 20_261_121


@pytest.fixture
def export(tmp_path: Path) -> Export:
    return Export(tmp_path)


@pytest.fixture
def data(export: Export) -> bytes:
    [volume] = export.written()
    return volume.read_bytes()


def reason_of(export: Export, data: bytes, private: X25519PrivateKey | None = None) -> Reason:
    with pytest.raises(BundleRefused) as refused:
        export.read(data, private)
    return refused.value.reason


def with_content(
    export: Export, data: bytes, change: Callable[[bundle_pb2.Content], None]
) -> bytes:
    """The file with another content of its only segment, correctly hashed and signed: a hostile exporter's."""
    manifest = manifest_of(data)
    [segment] = manifest.segments
    plain = zstandard.ZstdDecompressor().decompress(segments_of(data))
    content = bundle_pb2.Content.FromString(plain)
    change(content)
    changed = content.SerializeToString()
    stored = zstandard.ZstdCompressor().compress(changed)
    segment.size, segment.content_size = len(stored), len(changed)
    segment.sha256 = hashlib.sha256(stored).digest()
    again = export.signed_again(data, manifest)
    return again[: len(again) - len(segments_of(again))] + stored


def test_what_is_no_bundle_is_called_so(export: Export, data: bytes) -> None:
    assert reason_of(export, b"") is Reason.NOT_A_BUNDLE
    assert reason_of(export, MAGIC) is Reason.NOT_A_BUNDLE
    assert reason_of(export, b"PK\x03\x04" + data) is Reason.NOT_A_BUNDLE


def test_another_version_is_not_guessed_at(export: Export, data: bytes) -> None:
    other = data[: len(MAGIC)] + b"\x02" + data[len(MAGIC) + 1 :]
    assert reason_of(export, other) is Reason.VERSION_UNKNOWN


def test_a_length_beyond_the_limit_is_not_read(export: Export, data: bytes) -> None:
    assert reason_of(export, header(MAX_MANIFEST_BYTES + 1) + data) is Reason.TOO_LARGE


def test_a_file_cut_off_anywhere_is_refused(export: Export, data: bytes) -> None:
    for size in range(HEADER_BYTES, len(data)):
        assert reason_of(export, data[:size]) is Reason.TRUNCATED, size


def test_bytes_behind_the_last_segment_are_refused(export: Export, data: bytes) -> None:
    assert reason_of(export, data + b"\0") is Reason.TRAILING_BYTES


def test_a_key_that_is_not_known_makes_nothing_good(export: Export, data: bytes) -> None:
    forged = export.signed_again(data, manifest_of(data), Ed25519Signer.generate())
    assert reason_of(export, forged) is Reason.KEY_UNKNOWN


def test_a_manifest_that_names_another_exporter_is_not_that_ones(
    export: Export, data: bytes
) -> None:
    manifest = manifest_of(data)
    manifest.exporter = "global-control"
    assert reason_of(export, export.signed_again(data, manifest)) is Reason.KEY_UNKNOWN


def test_a_manifest_changed_after_it_was_signed_is_refused(export: Export, data: bytes) -> None:
    manifest = manifest_of(data)
    before, after = manifest.audience.encode(), b"edge-zone-a2-control"
    assert len(before) == len(after)
    assert reason_of(export, data.replace(before, after)) is Reason.SIGNATURE_INVALID


def test_a_segment_of_another_file_is_refused(export: Export, data: bytes) -> None:
    export.region.write_policy("region-a", "later")
    [path] = [p for p in export.directory.iterdir() if p.suffix == ".svxb"]
    path.unlink()
    [other] = export.written()
    mixed = data[: len(data) - len(segments_of(data))] + segments_of(other.read_bytes())
    assert reason_of(export, mixed) in (Reason.HASH_MISMATCH, Reason.TRUNCATED)


@pytest.mark.parametrize(
    ("volume", "volumes"), [(0, 1), (2, 1), (1, 0), (1, 10_001)], ids=lambda n: str(n)
)
def test_volumes_that_cannot_be_are_refused(
    export: Export, data: bytes, volume: int, volumes: int
) -> None:
    manifest = manifest_of(data)
    manifest.volume, manifest.volumes = volume, volumes
    assert reason_of(export, export.signed_again(data, manifest)) is Reason.MALFORMED


def test_a_segment_that_says_it_is_huge_is_not_unpacked(export: Export, data: bytes) -> None:
    manifest = manifest_of(data)
    manifest.segments[0].content_size = MAX_CONTENT_BYTES + 1
    assert reason_of(export, export.signed_again(data, manifest)) is Reason.TOO_LARGE


def test_a_compressed_bomb_is_not_unpacked(export: Export, data: bytes) -> None:
    manifest = manifest_of(data)
    bomb = zstandard.ZstdCompressor().compress(b"\0" * (64 * 1024 * 1024))
    manifest.segments[0].size = len(bomb)
    manifest.segments[0].sha256 = hashlib.sha256(bomb).digest()
    manifest.segments[0].content_size = MAX_CONTENT_BYTES
    again = export.signed_again(data, manifest)
    hostile = again[: len(again) - len(segments_of(again))] + bomb
    assert reason_of(export, hostile) is Reason.NOT_AS_DECLARED


def test_a_range_named_twice_or_backwards_is_refused(export: Export, data: bytes) -> None:
    twice = manifest_of(data)
    twice.ranges.append(twice.ranges[0])
    assert reason_of(export, export.signed_again(data, twice)) is Reason.MALFORMED
    backwards = manifest_of(data)
    backwards.ranges[0].first_sequence = backwards.ranges[0].last_sequence + 1
    assert reason_of(export, export.signed_again(data, backwards)) is Reason.MALFORMED


def test_runs_beside_the_declared_ranges_are_refused(export: Export, data: bytes) -> None:
    manifest = manifest_of(data)
    del manifest.ranges[0]
    assert reason_of(export, export.signed_again(data, manifest)) is Reason.NOT_AS_DECLARED


def test_a_range_that_is_not_reached_is_refused(export: Export, data: bytes) -> None:
    manifest = manifest_of(data)
    manifest.ranges[0].last_sequence += 1
    assert reason_of(export, export.signed_again(data, manifest)) is Reason.NOT_AS_DECLARED


def test_a_head_that_is_not_the_one_declared_is_refused(export: Export, data: bytes) -> None:
    manifest = manifest_of(data)
    manifest.ranges[0].chain_hash = bytes(32)
    assert reason_of(export, export.signed_again(data, manifest)) is Reason.CHAIN_BROKEN


def test_an_event_changed_by_the_exporter_breaks_the_chain(export: Export, data: bytes) -> None:
    def change(content: bundle_pb2.Content) -> None:
        run = next(run for run in content.runs if run.first_sequence > 1)
        run.events[0] = run.events[0] + b"\x30\x01"

    assert reason_of(export, with_content(export, data, change)) is Reason.CHAIN_BROKEN


def test_a_run_left_out_by_the_exporter_is_missed(export: Export, data: bytes) -> None:
    def change(content: bundle_pb2.Content) -> None:
        del content.runs[-2]

    assert reason_of(export, with_content(export, data, change)) is Reason.NOT_AS_DECLARED


def test_an_encrypted_file_needs_the_key_it_was_made_for(export: Export) -> None:
    private = X25519PrivateKey.generate()
    [volume] = export.written(private)
    data = volume.read_bytes()
    assert reason_of(export, data) is Reason.NOT_DECRYPTABLE
    assert reason_of(export, data, X25519PrivateKey.generate()) is Reason.NOT_DECRYPTABLE


def test_an_encrypted_segment_cannot_take_another_ones_place(export: Export) -> None:
    """Also not where the exporter itself signs the exchange."""
    private = X25519PrivateKey.generate()
    [volume] = export.written(private)
    data = volume.read_bytes()
    manifest = manifest_of(data)
    manifest.volume, manifest.volumes = 2, 2
    again = export.signed_again(data, manifest)
    assert reason_of(export, again, private) is Reason.NOT_DECRYPTABLE


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_no_mutation_of_a_file_is_read_to_its_end(export: Export, *, encrypted: bool) -> None:
    private = X25519PrivateKey.generate() if encrypted else None
    [volume] = export.written(private)
    data = volume.read_bytes()
    chance = random.Random(SEED)
    for number in range(MUTANTS):
        mutant = _mutated(data, chance)
        if mutant == data:
            continue
        try:
            export.read(mutant, private)
        except BundleRefused:
            continue
        pytest.fail(f"mutant {number} of seed {SEED} was taken")


def _mutated(data: bytes, chance: random.Random) -> bytes:
    """One to four changes: bits turned, bytes cut out, doubled, exchanged, or lengths set to extremes."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed))
        kind = chance.randrange(5)
        if kind == 0:
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del changed[at : at + chance.randint(1, 64)]
        elif kind == 2:
            changed[at:at] = changed[at : at + chance.randint(1, 64)]
        elif kind == 3:
            changed[at : at + 4] = chance.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))
        else:
            other = chance.randrange(len(changed))
            changed[at], changed[other] = changed[other], changed[at]
        if not changed:
            return b""
    return bytes(changed)
