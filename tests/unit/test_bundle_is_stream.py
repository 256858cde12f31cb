"""I14: what came by bundles is what came by link, on the histories of simulated fleets.

Two observers without any history of their own stand where a child stands. One takes the runs of its parent's log as a
link brings them, the other the files of several exports: cut into small segments, carried in any order, some of them
more than once, each taken in only where nothing before it is missing.
"""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from airgap.reader import BundleReader
from airgap.writer import BundleWriter
from controller.twin.facts import digest_of, held_of
from federation.bundles import Follower, Selection, Standing
from federation.clock import HybridClock
from federation.codec import stream_from_message
from federation.identifiers import StreamId
from federation.link_scope import LinkScope
from federation.proposal import Identity, Proposal
from federation.receipt import Receipt
from federation.session_settings import PeerRole
from federation.state import State
from souverix.bundle.v1 import bundle_pb2
from souverix.event.v1 import event_pb2
from tests.simulation.fleet import Controller, Fleet
from tests.simulation.keys import ROOT as ROOT_KEY
from tests.simulation.keys import VERIFIER, signer_of
from tests.simulation.run import play

#: Fleets with a history of faults each, of three to fifteen controllers.
SEEDS = range(20)

NOW_MS = 1_900_000_000_000


class Observer:
    """Takes runs in, one commit each; writes nothing of its own."""

    def __init__(self, domain: str) -> None:
        self.state = State("observer", VERIFIER, ROOT_KEY.public_key)
        self._identity = Identity("observer", domain, 1)
        self._clock = HybridClock()
        self._commits = 0

    def take(self, run: event_pb2.Run) -> Receipt:
        proposal = Proposal(self.state, self._identity, self._clock, signer_of("observer"), NOW_MS)
        receipt = proposal.receive("parent", run)
        if not proposal.empty:
            built = proposal.build(self._commits.to_bytes(16, "big"), "r1", 1)
            self.state.apply(built.commit.offset, built.commit, built.prepared)
            self._commits += 1
        return receipt


class AnyKey:
    def signature_is_good(self, *_: Any) -> bool:
        return True


def replayed(controller: Controller, commits: int | None = None) -> State:
    state = State(controller.name, VERIFIER, ROOT_KEY.public_key)
    for data in controller.log.data[:commits]:
        commit = controller.parse(data)
        state.apply(commit.offset, commit)
    return state


def scope_of(parent: Controller, child: Controller, state: State) -> LinkScope:
    scope = LinkScope(state.authority, parent.domain, PeerRole.CHILD, frozenset())
    scope.peer_domain = child.domain
    return scope


def by_link(parent: Controller, child: Controller) -> State:
    observer = Observer(child.domain)
    scope = scope_of(parent, child, replayed(parent))
    for data in parent.log.data:
        for run in parent.parse(data).runs:
            if scope.is_sent(stream_from_message(run.stream)):
                assert observer.take(run) is not Receipt.GAP
    return observer.state


def by_bundles(
    parent: Controller, child: Controller, chance: random.Random, directory: Path
) -> State:
    """The parent exports some times in the course of its history, the last time at its end; nothing is acknowledged
    but what an earlier file in the same hands held.
    """
    observer = Observer(child.domain)
    size = len(parent.log.data)
    moments = sorted(chance.randint(0, size) for _ in range(3))
    files: list[bytes] = []
    held: dict[StreamId, int] = {}
    for moment in (*moments, size):
        state = replayed(parent, moment)
        runs = selected(parent, state, scope_of(parent, child, state), held, chance)
        files += written(runs, directory, chance)
        for run in runs:
            held[stream_from_message(run.stream)] = run.seal.sequence
    carried = files + chance.choices(files, k=2)
    chance.shuffle(carried)
    while carried:
        left = [data for data in carried if not taken_in(data, observer)]
        assert len(left) < len(carried), "what every file needs first is in none of them"
        carried = left
    return observer.state


def selected(
    parent: Controller,
    state: State,
    scope: LinkScope,
    held: dict[StreamId, int],
    chance: random.Random,
) -> list[event_pb2.Run]:
    selection = Selection(state, scope.is_sent, held)
    runs: list[event_pb2.Run] = []
    while (reading := selection.next_reading()) is not None:
        at = reading.first_offset
        some = parent.log.data[at : at + chance.randint(1, 8)]
        selection.take(reading, [parent.parse(data) for data in some])
        runs += selection.runs()
    return runs


def written(runs: Sequence[event_pb2.Run], directory: Path, chance: random.Random) -> list[bytes]:
    """Real files, each of some consecutive runs."""
    files: list[bytes] = []
    rest = list(runs)
    while rest or not files:
        count = chance.randint(1, max(1, len(rest)))
        some, rest = rest[:count], rest[count:]
        head = bundle_pb2.Manifest(set_id=f"{chance.getrandbits(128):032x}", exporter="parent")
        head.create_time.FromMilliseconds(NOW_MS)
        head.expire_time.FromMilliseconds(NOW_MS + 1)
        writer = BundleWriter(directory, head, signer_of("parent"))
        for run in some:
            writer.put_run(run)
        [path] = writer.finish()
        files.append(path.read_bytes())
        path.unlink()
    return files


def taken_in(data: bytes, observer: Observer) -> bool:
    """Takes a file in, unless something before it is missing."""
    reader = BundleReader(io.BytesIO(data), AnyKey())
    follower = Follower(observer.state, lambda stream: True)
    standings = [follower.stand(run) for content in reader.contents() for run in content.runs]
    assert set(standings) <= {Standing.NEW, Standing.APPLIED, Standing.GAP}
    if Standing.GAP in standings:
        return False
    for content in reader.contents():
        for run in content.runs:
            assert observer.take(run) in (Receipt.TAKEN, Receipt.REPEATED)
    return True


def left_behind(state: State) -> dict[str, Any]:
    """What a state holds, but for offsets in a log of its own."""
    return {
        "streams": {
            stream: (held.received, held.applied, held.chain_hash, held.waiting_reason)
            for stream, held in state.streams.items()
        },
        "subjects": {
            (domain, subject): digest_of(
                state,
                held_of(state, domain, subject, sorted(state.table.glance(domain, subject))),
            )
            for (domain, _), subjects in state.table.subjects.items()
            for subject in subjects
        },
        "conflicts": (state.conflicts.recorded, state.conflicts.open_keys),
        "authority": {d: r.SerializeToString() for d, r in state.authority.records.items()},
        "keys": sorted(g.SerializeToString() for g in state.keys.grants()),
    }


def compared(fleet: Fleet, chance: random.Random, directory: Path) -> int:
    """Compares both ways for some children of a fleet; how many there were."""
    children = [c for c in fleet.controllers if c.parent is not None]
    for child in chance.sample(children, min(2, len(children))):
        assert child.parent is not None
        parent = fleet.controllers[child.parent]
        linked = left_behind(by_link(parent, child))
        assert linked["streams"]
        assert left_behind(by_bundles(parent, child, chance, directory)) == linked
    return len(children)


@pytest.mark.parametrize("seed", SEEDS)
def test_bundles_leave_behind_what_a_link_does(seed: int, tmp_path: Path) -> None:
    assert compared(play(seed), random.Random(seed), tmp_path)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("runs", lambda original: lambda self: list(original(self))[:-1]),
        ("_end_offset", None),
    ],
    ids=["a run is left out", "the end of the log is"],
)
def test_the_comparison_finds_a_planted_bug(
    name: str, wrong: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wrong is not None:
        monkeypatch.setattr(Selection, name, wrong(Selection.runs))
    else:
        original = Selection.__init__

        def cut_short(self: Selection, *arguments: Any) -> None:
            original(self, *arguments)
            self._end_offset -= 3

        monkeypatch.setattr(Selection, "__init__", cut_short)
    with pytest.raises(AssertionError):
        compared(play(0), random.Random(0), tmp_path)
