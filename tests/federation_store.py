"""A store in memory for tests: subjects as packed bytes, and the parts of checkpoints."""

from __future__ import annotations

from collections.abc import Callable

from federation.applied import Applied
from federation.checkpoint import CheckpointRecorder
from federation.restoring import restore
from federation.state import State
from federation.stored_writes import pack_aspects, unpack_aspects
from federation.table import Aspects


class MemoryStore:
    """What one state left, in the order in which it did."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], bytes] = {}
        self.parts: dict[str, bytes] = {}
        self.loads = 0
        self._dirty: set[tuple[str, str]] = set()
        self._state: State | None = None
        self._recorder: CheckpointRecorder | None = None

    def follow(self, state: State) -> None:
        """Begins with a state that holds nothing yet."""
        self._state = state
        self._recorder = CheckpointRecorder(state)
        state.table.attach(self)

    def restored(self, fresh: State) -> State:
        """Fills a fresh state with what was stored last, and follows it from now on."""
        numbers = restore(fresh, self.parts)
        for domain, subject in self.rows:
            fresh.table.put_cold(domain, subject)
        self.follow(fresh)
        assert self._recorder is not None
        self._recorder.is_stored(numbers)
        self._dirty.clear()
        return fresh

    def take_note(self, applied: Applied) -> None:
        """Follows a commit."""
        assert self._recorder is not None
        self._recorder.take_note(applied)
        self._dirty.update((key.domain, key.subject) for key in applied.keys)

    def store(self, cools: Callable[[], bool] = lambda: False) -> None:
        """Stores what changed; `cools` says, subject by subject, whether one is cooled then."""
        assert self._state is not None
        assert self._recorder is not None
        changed = self._recorder.changed()
        self.parts.update(changed.put)
        self.parts.update((name, encode()) for name, encode in changed.encode.items())
        for name in changed.dropped:
            del self.parts[name]
        for subject in self._dirty:
            aspects = self._state.table.hot(*subject)
            assert aspects is not None
            self.rows[subject] = pack_aspects(aspects)
        self._dirty.clear()
        for subject in self.rows:
            if cools():
                self._state.table.cool(*subject)

    def load(self, domain: str, subject: str) -> Aspects:
        """As `ColdSubjects.load`."""
        self.loads += 1
        return self.glance(domain, subject)

    def glance(self, domain: str, subject: str) -> Aspects:
        """As `ColdSubjects.glance`."""
        assert self._state is not None
        return unpack_aspects(self.rows[domain, subject], self._state.decoder)


def contents(state: State) -> dict[str, object]:
    """All that a state holds, in a form in which equal states are equal."""
    return {
        "table": dict(state.table.items()),
        "subjects": {kind: sorted(held) for kind, held in state.table.subjects.items()},
        "domains": {s: sorted(held) for s, held in state.domains_of_subject.items()},
        "streams": {
            stream: (
                held.received,
                held.chain_hash,
                held.applied,
                held.waiting_reason,
                held.quarantine_reason,
                held.keys,
                held.skipped,
                [(run.seal.sequence, list(run.writes)) for run in held.waiting],
                held.index.columns(0, len(held.index)),
            )
            for stream, held in state.streams.items()
        },
        "evidence": state.evidence,
        "blocked": state.blocked,
        "authority": state.authority.records,
        "mastery": state.mastery_began,
        "keys": sorted(g.SerializeToString() for g in state.keys.grants()),
        "successions": sorted(s.SerializeToString() for s in state.keys.successions()),
        "knows": state.grounds.knows,
        "ranges": state.admissions.ranges,
        "unadmitted": state.admissions.unadmitted,
        "due": {i: (d.key, d.dots, d.siblings, d.gone) for i, d in state.conflicts.due.items()},
        "recorded": state.conflicts.recorded,
        "open": state.conflicts.open_keys,
        "requests": list(state.requests.newest(len(state.requests))),
        "requests seen": state.requests.seen,
        "audits": list(state.audits),
        "audits seen": state.audits_seen,
        "control": list(state.control_offsets),
        "position": (state.next_offset, state.clock),
    }
