"""Keeps the attention queue current: from commits, and by looks at what time and links change. Owns when what is looked
at; what is the matter is `controller.attention`'s to judge.

A commit only leaves notes of what it touched; the work is done in slices beside the calls. What a policy changes of
many nodes is told by the read model's columns. At the start they also tell which nodes may be in trouble; these are
looked at one after the other, and until that is done the queue is not complete, and says so.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from controller.attention.authority import (
    SUPERSEDED_WRITE,
    judge_conflict,
    judge_late_write,
    judge_transfer,
)
from controller.attention.conditions import Condition, Judgement, Kind
from controller.attention.links import (
    BacklogSignal,
    judge_backlog,
    judge_hop,
    judge_knock,
    judge_streams,
)
from controller.attention.marks import STANDING
from controller.attention.newcomers import judge_enrolment
from controller.attention.nodes import NodeSource, judge_node
from controller.attention.outcomes import CommandAt, CommandOutcomes
from controller.attention.queue import AttentionQueue
from controller.attention.rules import Limits, Weights
from controller.attention.suspects import attesting, run_out, suspects
from controller.attention.twin_signals import TwinSignals
from controller.background import Background
from controller.replica import Replica
from controller.supply.gate import Gate
from controller.twin.facts import home_of
from federation.clock import wall_ms_of
from federation.codec import Write
from federation.identifiers import Key
from federation.state import Applied
from souverix.supply.v1 import artifact_pb2

_log = logging.getLogger(__name__)

#: Between two looks at what commits touched: an operator who looks at the screen sees no delay.
PAUSE_S = 0.2

#: Between two looks at links, streams and measurements.
SWEEP_S = 2.0

#: Work without a break: shorter than a call notices.
SLICE_S = 0.0005

#: The break after a slice of a look at many nodes, so that it takes a fifth of the loop at most.
SCAN_PAUSE_S = 0.002

#: Nodes a call looks at so that it sees what was written just before it, some five milliseconds; the rest has its turn.
MAX_SETTLED = 32

#: Nodes looked at before the items are brought up to date, unless the slice ends before.
MAX_AT_ONCE = 256

#: Aspects of a node that tell of no condition.
SILENT_ASPECTS = frozenset({"inventory"})

#: Aspects of other subjects that tell of one.
NOTED_ASPECTS = frozenset({"delivery", "attention_mark", "conflict", "peer_link", "enrolment"})

#: Stands in every audit entry of a superseded master's late write.
_SUPERSEDED = SUPERSEDED_WRITE.encode()

#: Times to look again that count no more, beside one for each source, before they are cleared away.
STALE_ENTRIES = 1024

#: Late writes that are looked at; the audit log has them all.
MAX_LATE_WRITES = 1024


class Links(Protocol):
    """What this controller sees of others."""

    def conditions(self, limits: Limits, now_ms: int) -> Iterable[Condition]:
        """What is the matter with the links to other controllers."""


class AttentionFeed:
    """The queue of one replica. `run` is its life."""

    def __init__(self, replica: Replica, links: Links) -> None:
        self._replica = replica
        self._state = replica.state
        self._links = links
        self.limits: Limits = replica.config.attention.limits()
        self.weights: Weights = replica.config.attention.weights()
        self.queue = AttentionQueue(self._describe, replica.config.attention.group_above)
        self._outcomes = CommandOutcomes()
        #: What commits touched and is not looked at yet.
        self._nodes: dict[str, None] = {}
        self._keys: dict[Key, None] = {}
        self._policies: set[str] = set()
        #: Domains of whose artifacts or demands something changed.
        self._supply: set[str] = set()
        #: Domains that expect something else of their nodes' measurements.
        self._expects: set[str] = set()
        #: Up to when verifications that ran out were looked for.
        self._ran_out_ms = 0
        self._late: deque[tuple[str, Write]] = deque(maxlen=MAX_LATE_WRITES)
        self._authority = False
        self._shown_conflicts: set[Key] = set()
        #: Marks that say something, for whoever ends them.
        self.standing_marks: dict[tuple[str, str], None] = {}
        #: Looks at all there is of something, one at a time of each: deliveries by key, the rest by source.
        self._scans: dict[str, Iterator[str | Key]] = {}
        self._background = Background()
        self._again: list[tuple[int, str]] = []
        self._again_at: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._awaits_columns = True
        self._complete = False

    @property
    def complete(self) -> bool:
        """Tells whether everything known has been looked at since the start."""
        return self._complete

    def kind_matters(self, kind: Kind) -> bool:
        """Tells whether a kind makes items: one of weight 0 makes none."""
        return self.weights.kinds[kind] > 0

    async def run(self) -> None:
        """Lives until cancelled; begins once the log is read."""
        await self._replica.replayed()
        with self._replica.changes.listen(self._take_note, views=True):
            self._look_at_everything()
            next_sweep_s = 0.0
            while True:
                now_s = asyncio.get_running_loop().time()
                try:
                    if now_s >= next_sweep_s:
                        next_sweep_s = now_s + SWEEP_S
                        self._sweep(_wall_ms())
                    await self._work_off()
                except Exception as error:  # noqa: BLE001 what is wrong with one cause must not hide all others
                    _log.exception("a look at what needs attention failed", exc_info=error)
                await asyncio.sleep(SCAN_PAUSE_S if self._scans else PAUSE_S)

    async def settle(self) -> None:
        """Brings the items up to date with what was committed before, as far as that is not too much for a call."""
        self._step(_wall_ms(), MAX_SETTLED)

    async def changed(self, timeout_s: float) -> None:
        """Waits until an item changes, at most so long."""
        changed = self._changed
        try:
            async with asyncio.timeout(timeout_s):
                await changed.wait()
        except TimeoutError:
            return

    # Taking note, in the way of commits: nothing is read here.

    def _take_note(self, applied: Applied) -> None:
        open_keys, shown = self._state.conflicts.open_keys, self._shown_conflicts
        contested = bool(open_keys or shown)
        for key in applied.keys:
            domain, subject, aspect = key
            if subject.startswith("nodes/"):
                if aspect not in SILENT_ASPECTS:
                    self._nodes[subject] = None
            elif subject.startswith("policies/"):
                self._policies.add(domain)
            elif aspect == "attestation_policy":
                self._expects.add(domain)
            elif aspect == "supply_policy" or subject.startswith("artifacts/"):
                self._supply.add(domain)
            elif aspect in NOTED_ASPECTS:
                self._keys[key] = None
            if contested and (key in open_keys or key in shown):
                self._keys[key] = None
        if applied.authority_changed:
            self._authority = True
        for item in applied.audits:
            if _SUPERSEDED in item.raw:
                self._late.append((item.stream.domain, item.write))

    def _look_at_everything(self) -> None:
        state = self._state
        self._scans["deliveries"] = self._deliveries()
        for domain in list(state.authority.records):
            for subject in state.subjects_of(domain, "attention"):
                self._keys[Key(domain, subject, "attention_mark")] = None
            for subject in state.subjects_of(domain, "enrolments"):
                self._keys[Key(domain, subject, "enrolment")] = None
        self._keys |= dict.fromkeys(state.conflicts.open_keys)
        for item in state.audits:
            if _SUPERSEDED in item.raw:
                self._late.append((item.stream.domain, item.write))
        self._authority = True

    def _deliveries(self) -> Iterator[Key]:
        for domain in list(self._state.authority.records):
            for subject in self._state.subjects_of(domain, "commands"):
                if subject.count("/") == 2:
                    yield Key(domain, subject, "delivery")

    def _transfers_and_hops(self) -> Iterator[str]:
        for domain in list(self._state.authority.records):
            yield f"transfer/{domain}"
            yield f"hop/{domain}"

    def _drifting(self, domains: Iterable[str]) -> Iterator[str]:
        """Nodes that drift already: what drifts by another policy. Of those that begin or cease to the columns tell."""
        for domain in domains:
            for kind in (Kind.NODE_DRIFT, Kind.WAIVER_EXPIRING):
                yield from self.queue.subjects_of(kind, domain)

    def _gated(self, domains: Iterable[str], now_ms: int) -> Iterator[str]:
        """Nodes of domains whose gate is not off, and those that were in trouble when it was turned off."""
        gate = Gate(self._state, now_ms)
        for domain in domains:
            if gate.mode(domain) > artifact_pb2.GATE_MODE_OFF:
                yield from self._state.subjects_of(domain, "nodes")
            else:
                yield from self.queue.subjects_of(Kind.SUPPLY_CHAIN_VIOLATION, domain)

    def _subtrees(self, tops: Iterable[str]) -> list[str]:
        """The domains and all below them, each once."""
        return list({d: None for top in tops for d in self._state.authority.subtree_of(top)})

    # Working off.

    async def _work_off(self) -> None:
        """Works off what is noted, in slices; of a look at many nodes, one slice."""
        while True:
            began_s = time.monotonic()
            now_ms = _wall_ms()
            self._due_again(now_ms)
            self._step(now_ms, MAX_AT_ONCE, began_s + SLICE_S)
            if not self._nodes and not self._keys:
                break
            await self._background.rest(time.monotonic() - began_s)
        if self._awaits_columns:
            self._begin_with_columns(_wall_ms())
        if self._scans:
            self._scan(_wall_ms(), time.monotonic() + SLICE_S)
        elif not self._awaits_columns:
            self._complete = True

    def _begin_with_columns(self, now_ms: int) -> None:
        """Looks at the nodes that may be in trouble, once every node was read into the columns."""
        nodes = self._replica.nodes
        pending = nodes.pending()
        if pending is not None:
            self._awaits_columns = False
            self._scans["pending"] = pending
            self._scans["suspects"] = suspects(nodes.columns, self.limits, now_ms)
            self._scans["gated"] = self._gated(list(self._state.authority.records), now_ms)

    def _step(self, now_ms: int, most: int, end_s: float = float("inf")) -> None:
        before = self.queue.revision
        if self._authority and "authority" not in self._scans:
            self._authority = False
            self._scans["authority"] = self._transfers_and_hops()
        if self._policies and "policies" not in self._scans:
            changed, self._policies = self._policies, set()
            self._scans["policies"] = self._drifting(self._subtrees(changed))
        if self._supply and "gated" not in self._scans:
            gated, self._supply = self._supply, set()
            self._scans["gated"] = self._gated(self._subtrees(gated), now_ms)
        if self._expects and "attesting" not in self._scans:
            changed, self._expects = self._expects, set()
            columns = self._replica.nodes.columns
            self._scans["attesting"] = attesting(columns, self._subtrees(changed))
        while self._late:
            domain, write = self._late.popleft()
            judged = judge_late_write(domain, write, self.limits, now_ms)
            for condition in judged.conditions:
                self._put(f"late/{condition.domain}/{condition.subject}", judged)
        self._look_at_keys(now_ms, most, end_s)
        self._look_at_nodes(self._nodes, now_ms, most, end_s)
        self.queue.refresh()
        if self.queue.revision != before:
            self._changed.set()
            self._changed = asyncio.Event()

    def _look_at_keys(self, now_ms: int, most: int, end_s: float) -> None:
        for _ in range(min(most, len(self._keys))):
            key = next(iter(self._keys))
            del self._keys[key]
            match key.aspect:
                case "delivery":
                    self._look_at_delivery(key, now_ms)
                case "attention_mark":
                    self._look_at_mark(key)
                case "peer_link":
                    self._put(f"hop/{key.domain}", self._judge(f"hop/{key.domain}", now_ms))
                case "enrolment":
                    source = f"enrolment/{key.domain}/{key.subject}"
                    self._put(source, self._judge(source, now_ms))
                case "conflict":
                    recorded = self._state.conflicts.recorded.get(key.subject.partition("/")[2])
                    if recorded is not None:
                        self._look_at_conflict(recorded[0])
            if key in self._state.conflicts.open_keys or key in self._shown_conflicts:
                self._look_at_conflict(key)
            if time.monotonic() >= end_s:
                return

    def _look_at_nodes(self, nodes: dict[str, None], now_ms: int, most: int, end_s: float) -> None:
        if not nodes:
            return
        source = self._signals(now_ms)
        for _ in range(min(most, len(nodes))):
            subject = next(iter(nodes))
            del nodes[subject]
            self._put(subject, self._judge_node(source, subject, now_ms))
            if time.monotonic() >= end_s:
                return

    def _scan(self, now_ms: int, end_s: float) -> None:
        """Goes on with the looks at many nodes."""
        source = self._signals(now_ms)
        while self._scans and time.monotonic() < end_s:
            name, scan = next(iter(self._scans.items()))
            found = next(scan, None)
            if found is None:
                del self._scans[name]
            elif isinstance(found, Key):
                self._look_at_delivery(found, now_ms)
            elif not found.startswith("nodes/"):
                self._put(found, self._judge(found, now_ms))
            elif found not in self._nodes:
                self._put(found, self._judge_node(source, found, now_ms))
        self._step(now_ms, 0)

    def _look_at_delivery(self, key: Key, now_ms: int) -> None:
        write = self._state.winner(key)
        _, command_id, node = key.subject.split("/", 2)
        if write is None:
            return
        at = CommandAt(key.domain, command_id)
        self._outcomes.take_note(at, node, write.body(), wall_ms_of(write.stamp))
        source = f"command/{at.domain}/{at.command_id}"
        self._put(source, self._judge(source, now_ms))

    def _look_at_mark(self, key: Key) -> None:
        write = self._state.winner(key)
        id_ = key.subject.partition("/")[2]
        if write is None:
            return
        if write.body().state in STANDING:
            self.standing_marks[key.domain, id_] = None
        else:
            self.standing_marks.pop((key.domain, id_), None)
        self.queue.touch(id_)

    def _look_at_conflict(self, key: Key) -> None:
        judged = judge_conflict(self._state, key)
        self._put("conflict/" + "\0".join(key), judged)
        if key in self._state.conflicts.open_keys:
            self._shown_conflicts.add(key)
        else:
            self._shown_conflicts.discard(key)

    # What time and links change.

    def _due_again(self, now_ms: int) -> None:
        while self._again and self._again[0][0] <= now_ms:
            at_ms, source = heapq.heappop(self._again)
            if self._again_at.get(source) != at_ms:
                continue
            del self._again_at[source]
            if source.startswith("nodes/"):
                self._nodes[source] = None
            else:
                self._put(source, self._judge(source, now_ms))

    def _judge(self, source: str, now_ms: int) -> Judgement:
        """Judges a source that time changes, other than a node."""
        kind, _, name = source.partition("/")
        if kind == "transfer":
            return judge_transfer(self._state, name, self.limits, now_ms)
        if kind == "hop":
            return judge_hop(self._state, self._replica.config.controller.domain, name, now_ms)
        if kind == "enrolment":
            return judge_enrolment(self._state, name, now_ms)
        if kind == "command":
            at = CommandAt(*name.split("/", 1))
            return self._outcomes.judge(at, self.limits, now_ms)
        # Late writes are shown for a time, which is over.
        return Judgement()

    def _judge_node(self, source: NodeSource, subject: str, now_ms: int) -> Judgement:
        signals = source.signals(subject, now_ms)
        return judge_node(signals, self.limits, now_ms) if signals is not None else Judgement()

    def _put(self, source: str, judged: Judgement) -> None:
        again_ms = judged.look_again_ms
        if again_ms is None:
            self._again_at.pop(source, None)
        elif self._again_at.get(source) != again_ms:
            self._again_at[source] = again_ms
            heapq.heappush(self._again, (again_ms, source))
            if len(self._again) > 2 * len(self._again_at) + STALE_ENTRIES:
                self._again = [(at_ms, each) for each, at_ms in self._again_at.items()]
                heapq.heapify(self._again)
        self.queue.put(source, self._that_matter(judged.conditions))

    def _that_matter(self, conditions: Iterable[Condition]) -> list[Condition]:
        return [each for each in conditions if self.kind_matters(each.kind)]

    def _sweep(self, now_ms: int) -> None:
        """Looks at links, streams and measurements. A standby holds no links, and says nothing of them."""
        domain = self._replica.config.controller.domain
        links: list[Condition] = []
        if self._replica.is_master:
            links.extend(self._links.conditions(self.limits, now_ms))
            links.extend(judge_backlog(each, self.limits) for each in self._backlogs(now_ms))
        links.extend(judge_streams(self._state, domain, self.limits, now_ms))
        links.extend(judge_knock(each, domain) for each in self._replica.knocks.recent())
        self.queue.put("links", self._that_matter(links))
        if not self._awaits_columns:
            columns, since_ms = self._replica.nodes.columns, self._ran_out_ms
            self._nodes |= dict.fromkeys(run_out(columns, since_ms, now_ms))
            self._ran_out_ms = now_ms

    def _backlogs(self, now_ms: int) -> Iterator[BacklogSignal]:
        now_s = time.monotonic()
        for node, reports, level_s in self._replica.connectivity.backlogs(self.limits.node_backlog):
            home = home_of(self._state, f"nodes/{node}")
            if home is not None:
                age_ms = int((now_s - level_s) * 1000) if level_s is not None else 0
                level_ms = (now_ms - age_ms) // 1000 * 1000
                yield BacklogSignal(node, home.domain, reports, level_ms)

    def _signals(self, now_ms: int) -> NodeSource:
        histories, window_s = self._replica.histories, self.limits.flap_window_s
        return TwinSignals(self._state, histories, window_s, now_ms)

    def _describe(self, subject: str) -> Sequence[Condition]:
        now_ms = _wall_ms()
        return self._judge_node(self._signals(now_ms), subject, now_ms).conditions


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
