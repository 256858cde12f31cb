"""Verifies an export of the audit log offline, from the root's public key alone. Owns what is proved and what is not;
asks no controller, and holds the facts of the control lane and one segment in memory, however many entries there are.

The file is read more than once. First its control lane is folded by the rules by which controllers fold their own logs,
until the fold stands: that gives the keys, whom they may speak for, and how far streams count. Then each audit event is
held against its stream's chain, and each seal against these keys. Nothing the file says of itself is believed before.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from airgap.errors import BundleRefused, Reason
from airgap.layout import AUDITORS
from airgap.reader import BundleReader
from federation.acceptance import Outcome, judge_run
from federation.bounds import CHAIN_CONTRADICTED, Foreknown
from federation.chain import chain_start, extend
from federation.clock import stamp_of
from federation.codec import stream_from_message
from federation.errors import InvalidWrite
from federation.identifiers import Lane, StreamId
from federation.receipt import check_shape
from federation.state import State
from souverix.bundle.v1 import bundle_pb2
from souverix.event.v1 import event_pb2

#: Folds after which the control lane must stand: each settles what controllers one level further down wrote.
MAX_FOLDS = 16

#: Whose log the folded state is: nobody's, so that no word in it is taken for one's own.
_NOBODY = ""


class Standing(enum.Enum):
    """What is proved of a stream."""

    #: All of it is whole, and sealed by keys that lead to the root.
    PROVED = "PROVED"
    #: A controller above ended the stream, or decided against events: what comes later counts nowhere.
    VOID_AT_END = "VOID_AT_END"
    #: From a place on nobody is known who may have sealed it.
    UNPROVED = "UNPROVED"
    #: It was changed, cut at its beginning, or sealed by whom it is not of.
    BROKEN = "BROKEN"


@dataclass(slots=True)
class StreamReport:
    """What is proved of one stream, and up to where."""

    stream: StreamId
    standing: Standing = Standing.PROVED
    #: Events from the first on that are proved.
    proved: int = 0
    #: Events in the file.
    events: int = 0
    seals: int = 0
    #: Ground for programs, and where, for people; empty where all is proved.
    reason: str = ""
    where: str = ""

    def stop(self, standing: Standing, reason: str, where: str) -> None:
        """Takes note of the first thing that is wrong; what follows is counted and not looked at."""
        if self.standing is Standing.PROVED:
            self.standing, self.reason, self.where = standing, reason, where


@dataclass(slots=True)
class AuditReport:
    """What an export proves."""

    manifest: bundle_pb2.Manifest
    streams: list[StreamReport]
    #: Domains that are known of, and of which the file has no audit stream.
    uncovered: list[str] = field(default_factory=list)

    @property
    def first_fault(self) -> StreamReport | None:
        """The first stream, control before audit, that is not what it should be; None: there is none."""
        bad = (Standing.BROKEN, Standing.UNPROVED)
        return next((each for each in self.streams if each.standing in bad), None)


class Ed25519Signatures:
    """Checks Ed25519 signatures (`federation.chain.Verifier`)."""

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Tells whether the signature is good; a key that is none makes none good."""
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(slots=True)
class _Claim:
    """Who is said to have made a file: put by until the keys are known that it is judged by."""

    controller: str = ""
    key_id: str = ""
    message: bytes = b""
    signature: bytes = b""

    def signature_is_good(
        self, controller: str, key_id: str, message: bytes, signature: bytes
    ) -> bool:
        """Puts the claim by and objects to nothing yet."""
        self.controller, self.key_id = controller, key_id
        self.message, self.signature = message, signature
        return True

    def check(self, state: State, domain: str) -> None:
        """Judges it, of a controller of that domain. Raises `BundleRefused`."""
        key = state.keys.public_key(self.controller, self.key_id)
        if key is None:
            raise BundleRefused(
                Reason.KEY_UNKNOWN,
                f"{self.controller[:63]!r} signed the file by a key that nobody granted it",
            )
        if domain not in state.keys.domains_of_key(self.controller, self.key_id):
            raise BundleRefused(
                Reason.KEY_UNKNOWN, f"{self.controller} serves no domain {domain[:63]!r}"
            )
        if not state.keys.verifier.verify(key, self.message, self.signature):
            raise BundleRefused(
                Reason.SIGNATURE_INVALID, f"{self.controller} did not sign this file"
            )


class _Follower:
    """Follows streams from their first event: chains and numbers."""

    def __init__(self) -> None:
        self.reports: dict[StreamId, StreamReport] = {}
        self._heads: dict[StreamId, tuple[int, bytes]] = {}

    def follows(self, stream: StreamId, run: event_pb2.Run) -> bytes | None:
        """Counts a run. The chain hash before it where all of its stream up to its end is whole; None where not."""
        report = self.reports.setdefault(stream, StreamReport(stream))
        report.events += len(run.events)
        report.seals += 1
        if report.standing is not Standing.PROVED:
            return None
        last, chain_hash = self._heads.get(stream) or (0, chain_start(stream))
        where = f"events {run.first_sequence} to {run.seal.sequence}"
        if run.first_sequence != last + 1:
            report.stop(
                Standing.BROKEN, "GAP", f"events {last + 1} to {run.first_sequence - 1} lack"
            )
        elif extend(chain_hash, run.events) != run.seal.chain_hash:
            report.stop(Standing.BROKEN, "CHAIN_MISMATCH", where)
        self._heads[stream] = (run.seal.sequence, run.seal.chain_hash)
        return chain_hash if report.standing is Standing.PROVED else None


def verify_audit(
    file: BinaryIO, root_key: bytes, advance: Callable[[int], None] = lambda events: None
) -> AuditReport:
    """Reads an export to its end, more than once, and tells what it proves. `advance` is told of events read.

    Raises `BundleRefused` for a file that is damaged, cut, no export of an audit log, not signed by the controller that
    it names, or of another root.
    """
    claim = _Claim()
    reader = BundleReader(file, claim)
    manifest = reader.manifest
    if manifest.audience != AUDITORS or manifest.volumes != 1:
        raise BundleRefused(
            Reason.NOT_AN_AUDIT,
            "the file is a bundle for a controller; an export of the audit log is made by souverixctl audit export",
        )
    state, control = _fold_control(reader, root_key)
    if not state.authority.records:
        raise BundleRefused(
            Reason.ROOT_UNKNOWN,
            "nothing in the file was begun by the root of this key; is it the key of another federation?",
        )
    claim.check(state, manifest.exporter_domain)
    audit = _Follower()
    for stream, run in _runs(reader, Lane.AUDIT):
        before = audit.follows(stream, run)
        if before is not None:
            _judge(state, audit.reports[stream], run, before)
        advance(len(run.events))
    reports = [*control, *(audit.reports[stream] for stream in sorted(audit.reports))]
    told = {stream.domain for stream in audit.reports}
    return AuditReport(manifest, reports, sorted(set(state.authority.records) - told))


def _fold_control(reader: BundleReader, root_key: bytes) -> tuple[State, list[StreamReport]]:
    """The control lane as controllers fold it, and what it is worth, stream by stream. Raises `BundleRefused`."""
    foreknown: Foreknown | None = None
    made_ms = reader.manifest.create_time.ToMilliseconds()
    for _ in range(MAX_FOLDS):
        state = State(_NOBODY, Ed25519Signatures(), root_key, foreknown)
        follower = _Follower()
        for stream, run in _runs(reader, Lane.CONTROL):
            if follower.follows(stream, run) is not None:
                commit = event_pb2.Commit(
                    offset=state.next_offset, runs=[run], time_ms=made_ms, clock=stamp_of(made_ms)
                )
                state.apply(state.next_offset, commit)
        if state.grounds.stand:
            for stream in follower.reports:
                _report_control(state, follower.reports[stream])
            return state, [follower.reports[stream] for stream in sorted(follower.reports)]
        foreknown = state.grounds.to_foreknow()
    raise BundleRefused(
        Reason.MALFORMED, "the file's statements on keys void one another without end"
    )


def _report_control(state: State, report: StreamReport) -> None:
    held = state.streams.get(report.stream)
    if held is None:
        return
    report.proved = held.applied
    if held.applied == held.received:
        return
    where = f"from event {held.applied + 1} on"
    if not held.waiting:
        report.stop(Standing.VOID_AT_END, held.quarantine_reason, where)
    elif held.quarantine_reason:
        report.stop(Standing.BROKEN, held.quarantine_reason, where)
    else:
        report.stop(Standing.UNPROVED, held.waiting_reason, where)


def _judge(state: State, report: StreamReport, run: event_pb2.Run, before: bytes) -> None:
    """Holds a whole run against the keys, and against what was decided of its stream. `before` is the chain hash
    before it.
    """
    stream, last = report.stream, run.seal.sequence
    where = f"events {run.first_sequence} to {last}"
    limit = state.limit(stream)
    if limit is not None and last >= limit.last:
        counting = run.events[: max(0, limit.last - run.first_sequence + 1)]
        if limit.chain_hash and counting and extend(before, counting) != limit.chain_hash:
            report.stop(Standing.BROKEN, CHAIN_CONTRADICTED, where)
            return
        if last > limit.last:
            # Whoever ended the stream vouches for what it was up to there.
            report.proved = max(report.proved, limit.last if counting else 0)
            report.stop(Standing.VOID_AT_END, limit.reason, f"from event {limit.last + 1} on")
            return
    verdict = judge_run(
        stream, run.seal, None, run.first_sequence, state.keys, state.authority, verified=False
    )
    if verdict.outcome is Outcome.ACCEPTED:
        report.proved = last
        return
    for decision in state.grounds.bounds.decisions(stream):
        if (
            decision.first <= run.first_sequence
            and last <= decision.last
            and (last < decision.last or decision.chain_hash == run.seal.chain_hash)
        ):
            if decision.discards:
                report.stop(Standing.VOID_AT_END, "DISCARDED", where)
            else:
                report.proved = last
            return
    broken = verdict.outcome is Outcome.QUARANTINED
    report.stop(Standing.BROKEN if broken else Standing.UNPROVED, verdict.reason, where)


def _runs(reader: BundleReader, lane: Lane) -> Iterator[tuple[StreamId, event_pb2.Run]]:
    """The runs of a lane. Raises `BundleRefused`."""
    for content in reader.contents():
        for run in content.runs:
            try:
                stream = stream_from_message(run.stream)
                check_shape(stream, run)
            except InvalidWrite as error:
                raise BundleRefused(Reason.MALFORMED, str(error)) from error
            if stream.lane is lane:
                yield stream, run
