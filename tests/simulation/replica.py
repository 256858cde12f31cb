"""One replica of a simulated controller: the core's state, proposals and clock over a simulated log. Owns the order
gather → propose → append → apply → answer, as the controller's journal does, and what crashes and pauses do to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from federation.bounds import Foreknown
from federation.clock import MAX_AHEAD_MS, HybridClock, stamp_of
from federation.errors import FederationError
from federation.proposal import Built, Identity, Proposal
from federation.state import Applied
from tests.simulation import duties
from tests.simulation.endpoint import Endpoint
from tests.simulation.keys import ROOT, VERIFIER
from tests.simulation.observed_state import ObservedState
from tests.simulation.world import InvariantViolated

if TYPE_CHECKING:
    from tests.simulation.fleet import Controller

Decide = Callable[[Proposal], Any]
Answer = Callable[[Any, Exception | None], None]


#: Folds after which a state must stand: the tree is four levels deep.
MAX_FOLDS = 8

#: Grounds on which runs are held that forgers and expulsions bring about.
EXPECTED = frozenset(
    {"STREAM_SEALED", "SEAL_INVALID", "KEY_SUPERSEDED", "KEY_UNKNOWN", "KEY_NOT_VALID"}
)

#: Longest time in which a replica that slept past its lease goes on believing in it.
LEASE_NOTICE_MS = 400


class NotMaster(Exception):
    """This replica may not write, or ceased to while the request waited: its outcome is unknown."""


class Replica:
    """A process that may crash, be paused, and lose the mastership without noticing."""

    def __init__(self, controller: Controller, number: int) -> None:
        self.controller = controller
        self.world = controller.fleet.world
        self.name = f"{controller.name}-{number}"
        self.alive = True
        self.paused = False
        self.is_master = False
        self.token = 0
        self.clock = HybridClock()
        self.endpoints: list[Endpoint] = []
        self.state = self._fresh_state()
        self._life = 0
        self._waiting: deque[tuple[Decide, Answer]] = deque()
        self._gathering = False
        self._in_flight: tuple[Built, list[tuple[Answer, Any]]] | None = None
        self._stalled: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def _fresh_state(self, foreknown: Foreknown | None = None) -> ObservedState:
        return ObservedState(
            self.controller.name,
            VERIFIER,
            ROOT.public_key,
            self.controller.fleet.history,
            foreknown,
        )

    # Life.

    def later(self, delay_ms: int, action: Callable[..., None], *arguments: Any) -> None:
        """Has this process do something later, unless it died meanwhile."""
        self.world.after(delay_ms, self._wake_for, self._life, action, arguments)

    def when_awake(self, action: Callable[..., None], *arguments: Any) -> None:
        """Has this process do something now, or when it wakes from a pause; never once it died."""
        self._wake_for(self._life if self.alive else -1, action, arguments)

    def _wake_for(self, life: int, action: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if life != self._life or not self.alive:
            return
        if self.paused:
            self._stalled.append((action, arguments))
        else:
            action(*arguments)

    def crash(self) -> None:
        """The process dies: with it, all that is not in the log."""
        self.world.trace(f"{self.name} crashes")
        self.alive = self.paused = False
        self._life += 1
        self._lose_mastership()
        self._stalled.clear()
        for endpoint in self.endpoints:
            endpoint.open = False
            endpoint.connection_lost()
        self.endpoints.clear()

    def restart(self) -> None:
        """A new process starts and replays the log."""
        self.alive = True
        self.state = self._fresh_state()
        self._catch_up()
        self._settle()
        self.world.trace(f"{self.name} is back at offset {self.state.next_offset}")

    def pause(self) -> None:
        """The process stops (SIGSTOP), without losing anything."""
        self.world.trace(f"{self.name} is paused")
        self.paused = True

    def resume(self) -> None:
        """The process goes on where it was, and sees what came meanwhile."""
        self.world.trace(f"{self.name} wakes")
        self.paused = False
        stalled, self._stalled = self._stalled, []
        for action, arguments in stalled:
            self._wake_for(self._life, action, arguments)
        self.later(self.world.between(20, LEASE_NOTICE_MS), self._mind_lease)

    def _mind_lease(self) -> None:
        """Whoever slept past its lease learns so in time, even if it has nothing to write."""
        if self.is_master and self.token != self.controller.log.token:
            self.step_down()

    def become_master(self) -> None:
        """Elected: reads all that was written, and takes its clock from it."""
        self.token = self.controller.log.elect()
        self._catch_up()
        self._settle()
        self.clock = HybridClock(self.state.clock)
        self.is_master = True
        self.world.trace(f"{self.name} is master with token {self.token}")
        duties.perform(self, None)

    def step_down(self) -> None:
        """The log refused a write: another is master."""
        self.world.trace(f"{self.name} is fenced and steps down")
        self._lose_mastership()
        for endpoint in list(self.endpoints):
            endpoint.close("not the master any more")

    def _lose_mastership(self) -> None:
        self.is_master = False
        self._gathering = False
        self._in_flight = None
        waiting, self._waiting = self._waiting, deque()
        if self.alive:
            for _, answer in waiting:
                answer(None, NotMaster())

    def _settle(self) -> None:
        """Folds the log anew until the state rests on nothing but what is in it."""
        for _ in range(MAX_FOLDS):
            if self.state.grounds.stand:
                return
            self.state = self._fresh_state(self.state.grounds.to_foreknow())
            self._catch_up()
        raise InvariantViolated("I1", f"{self.name} does not come to a state that stands")

    def _begin_anew(self) -> None:
        """A fact voids what is in effect here, or ends the streams of this controller: the process begins anew."""
        self.crash()
        self.world.after(self.world.between(1, 50), self._come_back)

    def _come_back(self) -> None:
        if not self.alive:
            self.restart()
            self.controller.elect()

    def _catch_up(self) -> None:
        for data in self.controller.log.data[self.state.next_offset :]:
            commit = self.controller.parse(data)
            self.state.apply(commit.offset, commit)

    # Writing.

    @property
    def is_busy(self) -> bool:
        """Tells whether writes wait or are on their way to the log."""
        return self._in_flight is not None or bool(self._waiting) or bool(self._stalled)

    def submit(self, decide: Decide, answer: Answer) -> None:
        """Runs `decide` on the next proposal; answers once its commit is durable and applied."""
        if not self.is_master:
            answer(None, NotMaster())
            return
        self._waiting.append((decide, answer))
        if self._in_flight is None and not self._gathering:
            self._gathering = True
            self.later(self.world.between(0, 4), self._commit_next)

    def _commit_next(self) -> None:
        self._gathering = False
        if not self._waiting or self._in_flight is not None or not self.is_master:
            return
        controller = self.controller
        wall_ms = controller.wall_ms()
        if self.clock.last > stamp_of(controller.highest_wall_ms + MAX_AHEAD_MS + 1):
            raise InvariantViolated("I7", f"the clock of {self.name} was carried away by others")
        proposal = Proposal(
            self.state,
            Identity(controller.name, controller.domain, controller.origin(self.state).incarnation),
            self.clock,
            controller.signer_for(self.state),
            wall_ms,
        )
        gathered: list[tuple[Answer, Any]] = []
        while self._waiting and not proposal.full:
            decide, answer = self._waiting.popleft()
            mark = proposal.mark()
            try:
                gathered.append((answer, decide(proposal)))
            except FederationError as error:
                proposal.revert(mark)
                answer(None, error)
        if proposal.empty:
            self._gathering = bool(self._waiting)
            for answer, value in gathered:
                answer(value, None)
            if self._waiting:
                self.later(0, self._commit_next)
            return
        built = proposal.build(self.world.events.to_bytes(8, "big"), self.name, self.token)
        self._in_flight = (built, gathered)
        self.world.after(self.world.between(1, 6), self._reach_log, self._life, built)

    def _reach_log(self, life: int, built: Built) -> None:
        """The append arrives at the log: also when its writer is paused, and half of the time when it died."""
        if life != self._life and self.world.happens(0.5):
            return
        controller = self.controller
        if controller.log.append(built.commit.fencing_token, built):
            controller.fleet.history.note_commit(controller.name, built)
            controller.note_receipts(built)
            self.world.after(1, self._wake_for, life, self._committed, (built,))
        else:
            self.world.after(1, self._wake_for, life, self._refused, (built,))

    def _refused(self, built: Built) -> None:
        if self._in_flight is not None and self._in_flight[0] is built:
            gathered = self._in_flight[1]
            self.step_down()
            for answer, _ in gathered:
                answer(None, NotMaster())

    def _committed(self, built: Built) -> None:
        if self._in_flight is None or self._in_flight[0] is not built:
            return
        gathered = self._in_flight[1]
        self._in_flight = None
        before = self.controller.origin(self.state)
        applied = self.state.apply(built.commit.offset, built.commit, built.prepared)
        if self.state.grounds.outdated or self.controller.origin(self.state) != before:
            for answer, _ in gathered:
                answer(None, NotMaster())
            self._begin_anew()
            return
        for answer, value in gathered:
            answer(value, None)
        self._tell(applied)
        if self._waiting and not self._gathering:
            self._gathering = True
            self.later(0, self._commit_next)

    def _tell(self, applied: Applied) -> None:
        for stream, reason in applied.quarantined:
            if reason not in EXPECTED:
                forged = stream in self.controller.fleet.history.forged
                raise InvariantViolated(
                    "I11" if forged else "I15", f"{self.name} quarantines {stream}: {reason}"
                )
        duties.perform(self, applied)
        for endpoint in list(self.endpoints):
            endpoint.advanced(tree_changed=applied.authority_changed)

    # Sessions.

    def forget(self, endpoint: Endpoint) -> None:
        """A session has ended; the child dials again."""
        if endpoint in self.endpoints:
            self.endpoints.remove(endpoint)
            self.controller.session_ended(endpoint)
