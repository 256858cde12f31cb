"""What must hold of a fleet that has come to rest (design §13). Owns the checks; each raises `InvariantViolated`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from federation.codec import ASPECTS, Write
from federation.identifiers import Dot, Key, Lane, Origin, StreamId
from federation.merge import rivals_of
from federation.state import State
from tests.simulation.fleet import Controller, Fleet
from tests.simulation.keys import ROOT, VERIFIER
from tests.simulation.observed_state import ObservedState
from tests.simulation.replica import MAX_FOLDS
from tests.simulation.world import InvariantViolated

#: What one controller holds of one domain: key -> (siblings, the winner, its effective stamp).
View = dict[str, dict[Key, tuple[Any, ...]]]


def check(fleet: Fleet) -> None:
    """Checks everything."""
    states = {c.name: _state(c) for c in fleet.controllers}
    void = _Void(fleet, states[fleet.root.name])
    _check_void(fleet, states, void)
    _check_level(fleet, states)
    _check_authority(fleet, states)
    _check_convergence(fleet, states)
    _check_losses(fleet, states, void)
    _check_durability(fleet)
    _check_terms(fleet, states)
    _check_clocks(fleet, states)
    _check_requests(fleet)
    _check_audit(fleet, states, void)
    _check_replay(fleet, states)


class _Void:
    """What seals void, from first principles: the seals that stand at the root, each for its controller's streams."""

    def __init__(self, fleet: Fleet, root: State) -> None:
        self._seals: defaultdict[str, list[Any]] = defaultdict(list)
        for (stream, sequence), write in fleet.history.writes.items():
            if write.aspect == "stream_sealed" and sequence <= root.received(stream):
                body = write.body()
                self._seals[body.controller].append(body)

    def last(self, stream: StreamId) -> int | None:
        """The last event of a stream that counts; None: it does not end."""
        origin, found = stream.origin, []
        for body in self._seals[origin.controller]:
            if origin.incarnation <= body.incarnation:
                named = [
                    end.last_sequence
                    for end in body.streams
                    if (end.domain, end.incarnation, end.lane)
                    == (stream.domain, origin.incarnation, int(stream.lane))
                ]
                found.append(min(named, default=0))
        return min(found, default=None)

    def covers(self, stream: StreamId, sequence: int) -> bool:
        """Tells whether an event is void."""
        last = self.last(stream)
        return last is not None and sequence > last

    def write(self, key: Key, dot: Dot) -> bool:
        """Tells whether a write of a key is void."""
        return self.covers(StreamId(key.domain, dot.origin, ASPECTS[key.aspect].lane), dot.sequence)


def _check_void(fleet: Fleet, states: dict[str, State], void: _Void) -> None:
    """I10: nothing that a seal voids has effect anywhere."""
    for name, state in states.items():
        for stream, held in state.streams.items():
            last = void.last(stream)
            if last is not None and held.applied > last:
                _fail(
                    "I10", f"{name} has {stream} in effect up to {held.applied}, sealed at {last}"
                )
        for key, siblings in state.table.items():
            for write in siblings:
                if void.write(key, write.dot):
                    _fail("I10", f"{name} has {key} by {write.dot}, which is void")


def _state(controller: Controller) -> State:
    master = controller.master
    if master is None:
        raise InvariantViolated("I15", f"{controller.name} has no master")
    return master.state


def shared_domains(fleet: Fleet, child: Controller) -> set[str]:
    """Domains whose events flow between a child and its parent: its path, itself, and what is below."""
    shared = {c.domain for c in fleet.controllers if child in _path(fleet, c)}
    return shared | {c.domain for c in _path(fleet, child)}


def _path(fleet: Fleet, controller: Controller) -> list[Controller]:
    path = [controller]
    while path[-1].parent is not None:
        path.append(fleet.controllers[path[-1].parent])
    return path


def _fail(invariant: str, message: str) -> None:
    raise InvariantViolated(invariant, message)


def _check_level(fleet: Fleet, states: dict[str, State]) -> None:
    """I15: all sessions stand, everything has arrived where it belongs, and nothing waits without effect."""
    for child in fleet.controllers[1:]:
        if not child.is_linked:
            _fail("I15", f"{child.name} has no session with its parent")
    for controller in fleet.controllers:
        for stream, held in states[controller.name].streams.items():
            limit = states[controller.name].limit(stream)
            due = held.received if limit is None else min(held.received, limit.last)
            if held.applied != due:
                forged = stream in fleet.history.forged
                _fail(
                    "I11" if forged else "I15",
                    f"{controller.name} holds back {stream} at {held.applied} of {due}: "
                    f"{held.waiting_reason}",
                )
    for child in fleet.controllers[1:]:
        assert child.parent is not None
        below, above = states[child.name], states[fleet.controllers[child.parent].name]
        shared = shared_domains(fleet, child)
        beneath = {c.domain for c in fleet.controllers if child in _path(fleet, c)}
        for stream in {**below.streams, **above.streams}:
            audit = stream.lane is Lane.AUDIT
            if stream.domain not in (beneath if audit else shared):
                continue
            here, there = _counting(below, stream), _counting(above, stream)
            if here != there and not (audit and here == 0):
                forged = stream in fleet.history.forged
                _fail(
                    "I11" if forged else "I15",
                    f"{stream}: {child.name} holds {here}, its parent {there}",
                )


def _counting(state: State, stream: StreamId) -> int:
    """How far a stream is held, without what is void."""
    limit = state.limit(stream)
    received = state.received(stream)
    return received if limit is None else min(received, limit.last)


def _check_authority(fleet: Fleet, states: dict[str, State]) -> None:
    """I5: whoever knows a domain knows the same master of it."""
    for child in fleet.controllers[1:]:
        assert child.parent is not None
        below, above = states[child.name], states[fleet.controllers[child.parent].name]
        for domain in sorted(shared_domains(fleet, child)):
            one, other = below.authority.records.get(domain), above.authority.records.get(domain)
            if one is None or one != other:
                _fail("I5", f"{child.name} and its parent differ on who holds {domain}")


def _view(state: State) -> View:
    view: defaultdict[str, dict[Key, tuple[Any, ...]]] = defaultdict(dict)
    for key, siblings in state.table.items():
        winner = state.winner(key)
        assert winner is not None
        effective = state.admissions.effective_stamp(key.domain, ASPECTS[key.aspect].lane, winner)
        if len(siblings) == 1:
            view[key.domain][key] = (siblings[0].raw, winner.dot, effective)
        else:
            dots = tuple(sorted((s.dot, s.raw) for s in siblings))
            view[key.domain][key] = (dots, winner.dot, effective)
    return view


def _check_convergence(fleet: Fleet, states: dict[str, State]) -> None:
    """I1: controllers that share a domain hold the same siblings and the same winners of it."""
    views = {name: _view(state) for name, state in states.items()}
    for child in fleet.controllers[1:]:
        assert child.parent is not None
        parent = fleet.controllers[child.parent]
        for domain in sorted(shared_domains(fleet, child)):
            below = views[child.name].get(domain, {})
            above = views[parent.name].get(domain, {})
            if below != above:
                differing = [k for k in {**below, **above} if below.get(k) != above.get(k)]
                _fail("I1", f"{child.name} and {parent.name} differ on {differing[:3]}")
            recorded = {
                i for i, (k, _) in states[child.name].conflicts.recorded.items() if k[0] == domain
            }
            if recorded != {
                i for i, (k, _) in states[parent.name].conflicts.recorded.items() if k[0] == domain
            }:
                _fail("I1", f"{child.name} and {parent.name} know other conflicts of {domain}")


def _maximal(writes: Iterable[Write]) -> set[tuple[Origin, int]]:
    """The writes none of which another one had seen, from first principles."""
    seen: dict[Origin, int] = {}
    listed = list(writes)
    for write in listed:
        for origin, sequence in write.context:
            if seen.get(origin, 0) < sequence:
                seen[origin] = sequence
    return {(w.origin, w.sequence) for w in listed if seen.get(w.origin, 0) < w.sequence}


def _check_losses(fleet: Fleet, states: dict[str, State], void: _Void) -> None:
    """I2: what no one had seen stands; what lost, or was resolved, is in a record at the master-of-record."""
    root = states[fleet.root.name]
    pairs: defaultdict[Key, list[tuple[Dot, ...]]] = defaultdict(list)
    for key, every in fleet.history.by_key.items():
        writes = [write for write in every if not void.write(key, write.dot)]
        expected = _maximal(writes)
        standing = {(s.origin, s.sequence) for s in root.siblings(key)}
        if standing != expected:
            _fail("I2", f"{key}: {sorted(standing)} stand, not {sorted(expected)}")
        if not ASPECTS[key.aspect].contested:
            continue
        rivals = rivals_of(key, root.siblings(key), root.rank)
        if rivals:
            pairs[key].append(tuple(r.dot for r in rivals))
        pairs[key].extend(w.resolves for w in writes if w.resolves)
    for key, groups in pairs.items():
        record = root.authority.records[key.domain]
        master = states[record.master_of_record]
        request_of = {w.dot: (w.principal, w.request_id) for w in fleet.history.by_key[key]}
        recorded = [_values(listed, request_of) for listed in _recorded(master, key)]
        for group in groups:
            if any(void.write(key, dot) for dot in group):
                continue
            fleet.history.figures.conflicts += 1
            if not any(_values(group, request_of) <= listed for listed in recorded):
                _fail(
                    "I2", f"the conflict of {group} on {key} is not recorded at {master.controller}"
                )


def _recorded(state: State, key: Key) -> list[list[Dot]]:
    return [
        [Dot(Origin(s.controller, s.incarnation), s.sequence) for s in write.body().siblings]
        for recorded_key, write in state.conflicts.recorded.values()
        if recorded_key == key
    ]


def _values(dots: Iterable[Dot], request_of: Mapping[Dot, tuple[str, str]]) -> set[object]:
    """What the dots stand for: writes of one request are one value, whichever of them a record names."""
    return {request_of[dot] if request_of[dot][1] else dot for dot in dots}


def _check_durability(fleet: Fleet) -> None:
    """I3: what a client was told stands is in the log of its origin, under its number."""
    history = fleet.history
    for request_id, teller, (stream, sequence) in history.acknowledged:
        written = history.writes.get((stream, sequence))
        log = fleet.by_name[stream.origin.controller].log
        if (
            written is None
            or written.request_id != request_id
            or log.durable.get(stream, 0) < sequence
        ):
            _fail("I3", f"{teller} acknowledged {request_id} as {stream} {sequence}: it is lost")


def _check_terms(fleet: Fleet, states: dict[str, State]) -> None:
    """I6: among siblings, what a superseded master wrote never wins against its successor."""
    root = states[fleet.root.name]
    mastership_of = fleet.history.mastership_of
    for key, siblings in root.table.items():
        if len(siblings) < 2 or not ASPECTS[key.aspect].contested or key.aspect == "authority":
            continue
        winner = root.winner(key)
        assert winner is not None
        won = mastership_of(key, winner)
        for sibling in siblings:
            lost = mastership_of(key, sibling)
            if won and lost and won.held and lost.held and won.since < lost.since:
                _fail(
                    "I6",
                    f"{key}: {winner.dot} of the mastership since {won.since} wins against {sibling.dot} of the "
                    f"one since {lost.since}",
                )


def _check_clocks(fleet: Fleet, states: dict[str, State]) -> None:
    """I7: no write of another controller counts as later than the root, at its receipt, could explain."""
    root = states[fleet.root.name]
    for key, siblings in root.table.items():
        lane = ASPECTS[key.aspect].lane
        for write in siblings:
            if write.origin.controller == fleet.root.name:
                continue
            stream = StreamId(key.domain, write.origin, lane)
            bound = fleet.history.bound_at_root(stream, write.sequence)
            effective = root.admissions.effective_stamp(key.domain, lane, write)
            if bound is not None and effective > bound:
                _fail(
                    "I7",
                    f"{stream} {write.sequence} counts from {effective >> 16} ms, but came by {bound >> 16} ms",
                )


def _check_requests(fleet: Fleet) -> None:
    """I9: a request executed twice (by two that knew nothing of each other) left siblings, not a sequence."""
    root_writes = fleet.history.writes
    for request_id, places in fleet.history.executions.items():
        for place in places:
            write = root_writes[place]
            for other in places:
                dot = Dot(other[0].origin, other[1])
                if other != place and dot in write.context and request_id == write.request_id:
                    _fail("I9", f"{request_id} was executed again at {place}, having seen {other}")


def _check_audit(fleet: Fleet, states: dict[str, State], void: _Void) -> None:
    """I12: the root holds an audit entry of every client's write, by the controller that executed it."""
    root = states[fleet.root.name]
    audited = {
        (item.stream.origin.controller, item.write.body().request_id) for item in root.audits
    }
    for request_id, places in fleet.history.executions.items():
        for stream, sequence in places:
            audit = StreamId(stream.domain, stream.origin, Lane.AUDIT)
            if void.covers(stream, sequence) or void.last(audit) is not None:
                continue
            if (stream.origin.controller, request_id) not in audited:
                _fail("I12", f"{request_id}, executed as {stream} {sequence}, has no audit entry")


def _check_replay(fleet: Fleet, states: dict[str, State]) -> None:
    """A replay of one controller's log, chosen by chance, gives the state its master has."""
    controller = fleet.world.chance.choice(fleet.controllers)
    fresh = ObservedState(controller.name, VERIFIER, ROOT.public_key, fleet.history)
    for _ in range(MAX_FOLDS):
        for data in controller.log.data:
            commit = controller.parse(data)
            fresh.apply(commit.offset, commit)
        if fresh.grounds.stand:
            break
        fresh = ObservedState(
            controller.name, VERIFIER, ROOT.public_key, fleet.history, fresh.grounds.to_foreknow()
        )
    live = states[controller.name]
    if _view(fresh) != _view(live) or fresh.authority.records != live.authority.records:
        _fail("I3", f"a replay of the log of {controller.name} gives another state")
    if fresh.conflicts.due.keys() != live.conflicts.due.keys():
        _fail("I3", f"a replay of the log of {controller.name} finds other conflicts due")
