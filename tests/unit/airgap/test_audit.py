"""What an export of the audit log proves to whoever has the root's key alone, and what no change of it survives."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from airgap.audit import AuditReport, Standing, StreamReport, verify_audit
from airgap.errors import BundleRefused, Reason
from airgap.layout import AUDITORS, header, signed_form
from airgap.writer import BundleWriter
from controller.bundle.peers import AUDITING
from controller.signing import Ed25519Signer
from controller.writes import write_audit
from federation.chain import chain_start, extend, seal
from federation.codec import stream_from_message, stream_to_message
from federation.expulsion import position_now, streams_below
from federation.identifiers import Lane, Origin, StreamId
from souverix.audit.v1 import audit_pb2
from souverix.bundle.v1 import bundle_pb2
from souverix.event.v1 import event_pb2
from tests.federation_fixture import START_MS, MemoryController, controller_below, root_controller
from tests.unit.airgap.bundle_files import manifest_of, segments_of

REGION, ZONE = "region-a", "edge-a1"
ZONE_AUDIT = StreamId(ZONE, Origin("edge-a1-control", 1), Lane.AUDIT)


def note(controller: MemoryController, domain: str, action: str) -> None:
    record = audit_pb2.AuditRecord(
        principal="user:alice", action=action, outcome=audit_pb2.AUDIT_OUTCOME_ALLOWED
    )
    controller.submit(lambda p: write_audit(p, record, domain=domain))


class Tree:
    """A root, a region and a zone that wrote audit entries, all of which the root holds."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = root_controller()
        self.region = controller_below(self.root, "region-a-control", REGION)
        self.zone = controller_below(self.region, "edge-a1-control", ZONE)
        for number in range(4):
            note(self.root, "global", f"root.{number}")
            note(self.region, REGION, f"region.{number}")
            note(self.zone, ZONE, f"zone.{number}")
        self.settle()

    def settle(self) -> None:
        self.region.receive_from(self.zone)
        self.root.receive_from(self.region)

    @property
    def root_key(self) -> bytes:
        return self.root.root_signer.public_key

    def runs(self) -> list[event_pb2.Run]:
        """What an export by the root holds, in its order of effect."""
        return [
            run
            for commit in self.root.commits
            for run in commit.runs
            if AUDITING.scope.is_sent(stream_from_message(run.stream))
        ]

    def export(
        self,
        runs: Iterable[event_pb2.Run] | None = None,
        by: MemoryController | None = None,
        audience: str = AUDITORS,
    ) -> bytes:
        """A file as a controller writes it; of other runs than its own, as one in hostile hands would."""
        by = by or self.root
        head = bundle_pb2.Manifest(
            set_id="0" * 32,
            exporter=by.name,
            exporter_domain=by.identity.domain,
            audience=audience,
        )
        head.create_time.FromMilliseconds(START_MS)
        head.expire_time.FromMilliseconds(START_MS + 1)
        writer = BundleWriter(self.directory, head, by.signer)
        for run in self.runs() if runs is None else runs:
            writer.put_run(run)
        [path] = writer.finish()
        data = path.read_bytes()
        path.unlink()
        return data

    def verified(self, data: bytes) -> AuditReport:
        return verify_audit(io.BytesIO(data), self.root_key)

    def refusal(self, data: bytes, root_key: bytes | None = None) -> Reason:
        with pytest.raises(BundleRefused) as refused:
            verify_audit(io.BytesIO(data), root_key or self.root_key)
        return refused.value.reason


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def stream_in(report: AuditReport, stream: StreamId) -> StreamReport:
    return next(each for each in report.streams if each.stream == stream)


def is_of(run: event_pb2.Run, stream: StreamId) -> bool:
    return stream_from_message(run.stream) == stream


def test_a_good_export_is_proved_from_the_roots_key_to_each_event(tree: Tree) -> None:
    read: list[int] = []
    report = verify_audit(io.BytesIO(tree.export()), tree.root_key, read.append)
    assert report.first_fault is None
    assert all(each.standing is Standing.PROVED for each in report.streams)
    audits = {e.stream.domain: e.proved for e in report.streams if e.stream.lane is Lane.AUDIT}
    assert audits == {"global": 4, REGION: 4, ZONE: 4}
    assert sum(read) == 12
    assert report.uncovered == []


def test_domains_without_an_audit_stream_are_named(tree: Tree) -> None:
    tree.region.declare("edge-a2", REGION)
    tree.settle()
    runs = [run for run in tree.runs() if not is_of(run, ZONE_AUDIT)]
    report = tree.verified(tree.export(runs))
    assert report.uncovered == [ZONE, "edge-a2"]


def test_entries_stay_proved_when_keys_were_exchanged(tree: Tree) -> None:
    tree.zone.rotate_key()
    note(tree.zone, ZONE, "after")
    tree.settle()
    report = tree.verified(tree.export())
    assert report.first_fault is None
    assert stream_in(report, ZONE_AUDIT).proved == 5


def test_what_a_controller_wrote_after_it_was_sealed_is_void_and_the_rest_stands(
    tree: Tree,
) -> None:
    state = tree.region.state
    until_now = {
        stream: position_now(state.streams[stream])
        for stream in streams_below(state, tree.zone.name, ZONE)
    }
    note(tree.zone, ZONE, "too late")
    tree.settle()
    tree.region.expel(tree.zone.name, until_now)
    tree.settle()
    report = tree.verified(tree.export())
    found = stream_in(report, ZONE_AUDIT)
    assert (found.standing, found.reason) == (Standing.VOID_AT_END, "STREAM_SEALED")
    assert (found.proved, found.events) == (4, 5)
    assert report.first_fault is None, "it was decided by whom it is for to decide"


def test_the_key_of_another_root_proves_nothing(tree: Tree) -> None:
    other = Ed25519Signer.generate().public_key
    assert tree.refusal(tree.export(), other) is Reason.ROOT_UNKNOWN
    assert tree.refusal(tree.export(), b"\0" * 32) is Reason.ROOT_UNKNOWN


def test_a_bundle_for_a_controller_is_no_export(tree: Tree) -> None:
    assert tree.refusal(tree.export(audience="region-a-control")) is Reason.NOT_AN_AUDIT


# Whoever has the file changes it.


def test_every_turned_bit_is_found(tree: Tree) -> None:
    data = tree.export()
    for place in range(0, len(data), max(1, len(data) // 150)):
        changed = bytearray(data)
        changed[place] ^= 1
        assert tree.refusal(bytes(changed)), place


def test_every_cut_and_every_addition_is_found(tree: Tree) -> None:
    data = tree.export()
    for size in range(0, len(data), max(1, len(data) // 50)):
        assert tree.refusal(data[:size]) in (Reason.TRUNCATED, Reason.NOT_A_BUNDLE), size
    assert tree.refusal(data + b"\0") is Reason.TRAILING_BYTES


def test_a_stream_cannot_be_dropped_by_whoever_has_not_the_exporters_key(tree: Tree) -> None:
    runs = [run for run in tree.runs() if not is_of(run, ZONE_AUDIT)]
    stranger = MemoryController(tree.root.name, "global", tree.root.root_signer)
    assert tree.refusal(tree.export(runs, by=stranger)) is Reason.KEY_UNKNOWN
    less = tree.export(runs)
    said = manifest_of(less).SerializeToString()
    signed = bundle_pb2.SignedManifest(
        manifest=said,
        key_id=tree.root.signer.key_id,
        signature=stranger.signer.sign(signed_form(said)),
    ).SerializeToString()
    data = header(len(signed)) + signed + segments_of(less)
    assert tree.refusal(data) is Reason.SIGNATURE_INVALID


def test_one_that_serves_another_domain_cannot_sign_for_it(tree: Tree) -> None:
    liar = MemoryController("edge-a1-control", "global", tree.root.root_signer)
    liar.signer = tree.zone.signer
    assert tree.refusal(tree.export(by=liar)) is Reason.KEY_UNKNOWN


# The exporter itself is in hostile hands: it signs what it likes.


def resealed(run: event_pb2.Run, by: Ed25519Signer) -> event_pb2.Run:
    """A first run with a chain hash that fits, and a seal by a key of choice."""
    stream = stream_from_message(run.stream)
    chain_hash = extend(chain_start(stream), run.events)
    sealed = event_pb2.Run(stream=run.stream, first_sequence=1, events=run.events)
    sealed.seal.CopyFrom(seal(by, stream, len(run.events), chain_hash))
    return sealed


def changed_event(raw: bytes) -> bytes:
    event = event_pb2.Event.FromString(raw)
    event.audit.principal = "user:somebody-else"
    return event.SerializeToString()


def forged_entry(tree: Tree, runs: list[event_pb2.Run]) -> list[event_pb2.Run]:
    """The zone's first entry names another, sealed by the exporter under the zone's key id."""
    first = next(run for run in runs if is_of(run, ZONE_AUDIT))
    other = event_pb2.Run(
        stream=first.stream,
        first_sequence=1,
        events=[changed_event(first.events[0])],
    )
    forged = resealed(other, tree.root.signer)
    forged.seal.key_id = tree.zone.signer.key_id
    return [run for run in runs if not is_of(run, ZONE_AUDIT)] + [forged]


def entry_by_a_key_of_its_own(tree: Tree, runs: list[event_pb2.Run]) -> list[event_pb2.Run]:
    first = next(run for run in runs if is_of(run, ZONE_AUDIT))
    forged = resealed(
        event_pb2.Run(stream=first.stream, first_sequence=1, events=first.events),
        Ed25519Signer.generate(),
    )
    return [run for run in runs if not is_of(run, ZONE_AUDIT)] + [forged]


def beginning_cut_off(tree: Tree, runs: list[event_pb2.Run]) -> list[event_pb2.Run]:
    first = next(run for run in runs if is_of(run, ZONE_AUDIT))
    return [run for run in runs if run is not first]


def grants_left_out(tree: Tree, runs: list[event_pb2.Run]) -> list[event_pb2.Run]:
    control = {int(Lane.CONTROL)}
    return [run for run in runs if not (run.stream.lane in control and run.stream.domain == ZONE)]


def carried_over(tree: Tree, runs: list[event_pb2.Run]) -> list[event_pb2.Run]:
    """The region's entries, said to be the zone's."""
    kept = [run for run in runs if not is_of(run, ZONE_AUDIT)]
    region = StreamId(REGION, Origin("region-a-control", 1), Lane.AUDIT)
    moved = []
    for run in runs:
        if is_of(run, region):
            copy = event_pb2.Run.FromString(run.SerializeToString())
            copy.stream.domain, copy.stream.controller = ZONE, "edge-a1-control"
            moved.append(copy)
    return kept + moved


@pytest.mark.parametrize(
    ("forge", "standing", "reason"),
    [
        (forged_entry, Standing.BROKEN, "SEAL_INVALID"),
        (entry_by_a_key_of_its_own, Standing.UNPROVED, "KEY_UNKNOWN"),
        (beginning_cut_off, Standing.BROKEN, "GAP"),
        (carried_over, Standing.BROKEN, "CHAIN_MISMATCH"),
        (grants_left_out, Standing.UNPROVED, "KEY_UNKNOWN"),
    ],
)
def test_an_exporter_in_hostile_hands_can_withhold_and_not_forge(
    tree: Tree,
    forge: Callable[[Tree, list[event_pb2.Run]], list[event_pb2.Run]],
    standing: Standing,
    reason: str,
) -> None:
    report = tree.verified(tree.export(forge(tree, tree.runs())))
    found = stream_in(report, ZONE_AUDIT)
    assert (found.standing, found.reason, found.proved) == (standing, reason, 0)
    assert report.first_fault is found
    others = [each for each in report.streams if each.stream.domain != ZONE]
    assert all(each.standing is Standing.PROVED for each in others)


def with_runs_changed(tree: Tree, change: Callable[[list[int], Any], None]) -> bytes:
    """An export whose one segment was written anew by the exporter; `change` gets the places of the zone's entries."""
    data = tree.export()
    manifest = manifest_of(data)
    [segment] = manifest.segments
    plain = zstandard.ZstdDecompressor().decompress(segments_of(data))
    content = bundle_pb2.Content.FromString(plain)
    change([n for n, run in enumerate(content.runs) if is_of(run, ZONE_AUDIT)], content.runs)
    plain = content.SerializeToString()
    stored = zstandard.ZstdCompressor().compress(plain)
    segment.size, segment.content_size = len(stored), len(plain)
    segment.sha256 = hashlib.sha256(stored).digest()
    said = manifest.SerializeToString()
    signed = bundle_pb2.SignedManifest(
        manifest=said,
        key_id=tree.root.signer.key_id,
        signature=tree.root.signer.sign(signed_form(said)),
    ).SerializeToString()
    return header(len(signed)) + signed + stored


def test_runs_in_another_order_are_refused(tree: Tree) -> None:
    def swap(places: list[int], runs: Any) -> None:
        one = event_pb2.Run.FromString(runs[places[0]].SerializeToString())
        runs[places[0]].CopyFrom(runs[places[1]])
        runs[places[1]].CopyFrom(one)

    assert tree.refusal(with_runs_changed(tree, swap)) is Reason.NOT_AS_DECLARED


def test_an_entry_left_out_in_the_midst_is_refused(tree: Tree) -> None:
    def leave_out(places: list[int], runs: Any) -> None:
        del runs[places[1]]

    assert tree.refusal(with_runs_changed(tree, leave_out)) is Reason.NOT_AS_DECLARED


def test_a_zone_cannot_write_entries_of_its_region(tree: Tree) -> None:
    """By its own good key, for a stream out of its reach."""
    stream = StreamId(REGION, Origin("edge-a1-control", 1), Lane.AUDIT)
    raw: Any = next(run for run in tree.runs() if is_of(run, ZONE_AUDIT)).events[0]
    run = event_pb2.Run(
        stream=stream_to_message(stream),
        first_sequence=1,
        events=[raw],
    )
    forged = resealed(run, tree.zone.signer)
    report = tree.verified(tree.export([*tree.runs(), forged]))
    found = stream_in(report, stream)
    assert (found.standing, found.reason) == (Standing.BROKEN, "OUT_OF_REACH")
