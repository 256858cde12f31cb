"""The link between a node and its controller, as a state machine.

Owns the order of things on the stream: who speaks first, what may be sent when, when a stream is left, which
frames are refused. Sans-IO: frames and times come in, effects and permissions to send come out. Must never read a
clock, open a socket or touch storage.

Sending is by permission, not by queue: `willing` names what may be sent now, most urgent first, and the driver
fetches it from where it is durable. So nothing piles up in memory, however slow the stream is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from nodeagent.clock import span_s
from nodeagent.dialling import DialPlan
from nodeagent.fence import Fence, Standing, standing
from nodeagent.link_effects import (
    AttestationAsked,
    CancelArrived,
    CommandArrived,
    Dial,
    Effect,
    FrameRefused,
    Isolated,
    KeepFence,
    LinkLeft,
    LockReleased,
    ReportsAcknowledged,
    ResultAcknowledged,
    Send,
    SendAttestation,
    SendChunk,
    SendGoodbye,
    SendHeartbeat,
    SendHello,
    SendProof,
    SendReplayChunk,
    SendReport,
    SendResult,
    Trigger,
    TurnCame,
    Welcomed,
)
from souverix.nodelink.v1 import nodelink_pb2

GREETING_TIMEOUT_S = 5.0
"""How long a dialled address may take to connect and welcome us: satellite links need seconds, not minutes."""

CLOSING_TIMEOUT_S = 2.0
"""How long a goodbye may take to leave when the agent stops: politeness must not hold up a shutdown."""

DEFAULT_HEARTBEAT_S = 5.0
"""Heartbeat interval when neither the controller nor the operator names one."""

DEFAULT_LEASE_TTL_S = 10.0
"""Lease TTL when the controller names none."""

SHORTEST_HEARTBEAT_S = 0.05
"""Least heartbeat interval obeyed: a wrong value must not turn the node into a flood."""

SHORTEST_LEASE_TTL_S = 0.2
"""Least lease TTL obeyed: below it, ordinary scheduling delays would look like silence."""

LONGEST_LEASE_TTL_S = 300.0
"""Most lease TTL obeyed: a dead stream is left within this, whatever the controller says."""

HEARTBEATS_PER_LEASE = 3
"""Heartbeats are sent at least this often within a lease TTL, so that a healthy stream is never silent."""

STEADY_LINK_S = 5.0
"""How long a link must stand for the back-off to begin anew: one that ends at once, again and again, must not
become a busy loop."""

REPORT_WINDOW = 64
"""Reports in flight without acknowledgement: enough to fill a slow link, little for the controller to hold."""

MAX_WANTED_CHUNKS = 1024
"""Chunks the controller may ask for at a time: 256 MiB, more than any inventory; beyond it is a broken peer."""


NONCE_BYTES = 32
"""Of a challenge to attest."""


class LinkState(Enum):
    """Where the link stands."""

    DISCONNECTED = "DISCONNECTED"
    GREETING = "GREETING"
    RETURNING = "RETURNING"
    LINKED = "LINKED"
    ISOLATED = "ISOLATED"
    CLOSING = "CLOSING"
    STOPPED = "STOPPED"


@dataclass(frozen=True, slots=True)
class Edge:
    """Where a trigger leads, and why."""

    to: LinkState
    because: str


_D, _G, _L = LinkState.DISCONNECTED, LinkState.GREETING, LinkState.LINKED
_R, _I = LinkState.RETURNING, LinkState.ISOLATED
_C, _S = LinkState.CLOSING, LinkState.STOPPED

STANDING = frozenset({_R, _L, _I})
"""States in which the controller has welcomed us."""

TRANSITIONS: dict[tuple[LinkState, Trigger], Edge] = {
    (_D, Trigger.DIAL_DUE): Edge(_G, "the pause is over: dial, and say hello"),
    (_D, Trigger.STOP_ASKED): Edge(_S, "nobody to say goodbye to"),
    (_G, Trigger.WELCOMED): Edge(_L, "the controller took the hello under a fence we accept"),
    (_G, Trigger.STREAM_ENDED): Edge(_D, "refused, unreachable, or lost before the welcome"),
    (_G, Trigger.SILENCE): Edge(_D, "no welcome within the greeting timeout"),
    (_G, Trigger.STALE_FENCE): Edge(_D, "the speaker is not the master we know of"),
    (_G, Trigger.SENT_AWAY): Edge(_D, "the controller said goodbye instead of welcome"),
    (_G, Trigger.PROTOCOL_BROKEN): Edge(_D, "what came first was no welcome"),
    (_G, Trigger.OWN_FAILURE): Edge(_D, "we could not keep what we must keep: try again later"),
    (_G, Trigger.STOP_ASKED): Edge(_S, "not welcomed yet, so there is no link to take leave of"),
    (_G, Trigger.WELCOMED_LOCKED): Edge(
        _R, "what waits here must be reconciled before anything else"
    ),
    (_R, Trigger.LOCK_RELEASED): Edge(_L, "the backlog is in effect at the controller"),
    (_R, Trigger.ISOLATED): Edge(
        _I, "the backlog was refused: it waits here until people have looked"
    ),
    **{
        (state, trigger): Edge(_D, because)
        for state in (_R, _L, _I)
        for trigger, because in (
            (Trigger.STREAM_ENDED, "the stream broke or the controller closed it"),
            (Trigger.SILENCE, "silent for a lease TTL: another may be master by now"),
            (Trigger.STALE_FENCE, "the speaker has been superseded"),
            (Trigger.SENT_AWAY, "the controller said goodbye"),
            (Trigger.PROTOCOL_BROKEN, "the controller contradicts the contract or our numbering"),
            (Trigger.OWN_FAILURE, "we could not keep what we must keep: try again later"),
        )
    },
    **{(state, Trigger.STOP_ASKED): Edge(_C, "say goodbye, then stop") for state in (_R, _L, _I)},
    (_C, Trigger.GOODBYE_SENT): Edge(_S, "all is said"),
    (_C, Trigger.STREAM_ENDED): Edge(_S, "the stream ended before the goodbye left"),
    (_C, Trigger.SILENCE): Edge(_S, "the goodbye could not leave in time"),
    (_C, Trigger.OWN_FAILURE): Edge(_S, "we stop anyway"),
}
"""Every move there is. A trigger without an edge in a state changes nothing."""

_ANSWERS = frozenset({"heartbeat_ack", "report_ack", "result_ack", "want_values"})

IN_PLACE: dict[LinkState, frozenset[str | None]] = {
    _G: frozenset({"challenge", "welcome"}),
    _R: _ANSWERS | {"replay_turn", "lock_released", "isolated"},
    _L: _ANSWERS | {"command", "cancel", "attestation_challenge", None},
    _I: _ANSWERS | {"command", "cancel", "attestation_challenge", None},
}
"""Frames that may come in each state; None is a kind that this version does not know. Behind the lock no command is
taken, whoever sends it."""


class Link:
    """One node's link. All times are monotonic seconds."""

    def __init__(self, plan: DialPlan, fence: Fence | None, heartbeat_s: float) -> None:
        self.state = LinkState.DISCONNECTED
        self.rtt_s: float | None = None
        self._plan = plan
        self._fence = fence
        self._default_heartbeat_s = heartbeat_s
        self._address = ""
        self._linked_at_s = 0.0
        self._silent_at_s = 0.0
        self._lease_ttl_s = DEFAULT_LEASE_TTL_S
        self._heartbeat_s = heartbeat_s
        self._heartbeat_at_s = 0.0
        self._hello_sent = False
        self._challenge: SendProof | None = None
        self._token = b""
        self._has_turn = False
        #: The challenge to attest that waits for its statement, and whether that is there.
        self._attestation = b""
        self._has_attested = False
        self._reports_sent = 0
        self._reports_acknowledged = 0
        self._results: deque[str] = deque()
        self._wanted: deque[str] = deque()

    def deadline_s(self) -> float:
        """When `tick` has something to do."""
        if self.state is LinkState.DISCONNECTED:
            return self._plan.next().not_before_s
        return self._silent_at_s

    def heartbeat_due_s(self) -> float:
        """When the next heartbeat falls due; never, while no link stands."""
        return self._heartbeat_at_s if self.state in STANDING else float("inf")

    def tick(self, now_s: float) -> list[Effect]:
        """Time has passed: dial when the pause is over, leave a stream that is silent for too long."""
        if self.state is LinkState.DISCONNECTED:
            dialling = self._plan.next()
            if now_s < dialling.not_before_s:
                return []
            self._move(Trigger.DIAL_DUE)
            self._address = dialling.address
            self._silent_at_s = now_s + GREETING_TIMEOUT_S
            self._hello_sent = False
            self._challenge = None
            return [Dial(dialling.address)]
        if now_s > self._silent_at_s:
            return self.leave(Trigger.SILENCE, "nothing was heard for too long", now_s)
        return []

    def receive(self, frame: nodelink_pb2.ConnectResponse, now_s: float) -> list[Effect]:
        """A frame came. Its effects, in the order in which they must be carried out.

        A frame that comes after a lease TTL of silence is not looked at: it may have been written before a
        successor was elected. A goodbye is heard under any fence and teaches none, for all it can do is end the
        stream, and replicas that are not the master say it.
        """
        if self.state is not LinkState.GREETING and self.state not in STANDING:
            return []
        if now_s > self._silent_at_s:
            return self.leave(Trigger.SILENCE, "nothing was heard for too long", now_s)
        kind = frame.WhichOneof("kind")
        if kind == "goodbye":
            return self._sent_away(frame.goodbye, now_s)
        if not frame.HasField("fence"):
            return self.leave(Trigger.PROTOCOL_BROKEN, "a frame without a fence", now_s)
        if kind not in IN_PLACE[self.state]:
            detail = f"a frame of kind {kind or 'unknown'} while {self.state.value}"
            return self.leave(Trigger.PROTOCOL_BROKEN, detail, now_s)
        offered = Fence.from_message(frame.fence)
        stands = standing(offered, self._fence)
        if stands is Standing.LOWER and self._fence is not None:
            refused = FrameRefused(offered, self._fence)
            return [refused, *self.leave(Trigger.STALE_FENCE, f"fence {offered}", now_s)]
        effects: list[Effect] = []
        if stands is Standing.HIGHER:
            effects.append(KeepFence(offered))
        if self.state in STANDING:
            self._silent_at_s = now_s + self._lease_ttl_s
        return effects + self._take(frame, kind, now_s)

    def _take(
        self, frame: nodelink_pb2.ConnectResponse, kind: str | None, now_s: float
    ) -> list[Effect]:
        match kind:
            case "challenge":
                self._challenge = SendProof(frame.fence.controller, frame.challenge.nonce)
            case "welcome":
                return self._welcomed(frame.welcome, now_s)
            case "replay_turn":
                self._has_turn = True
                return [TurnCame(frame.replay_turn, self._token)]
            case "lock_released":
                self._move(Trigger.LOCK_RELEASED)
                return [LockReleased()]
            case "isolated":
                self._move(Trigger.ISOLATED)
                return [Isolated(frame.isolated.reason, frame.isolated.message)]
            case "heartbeat_ack":
                self.rtt_s = max(0.0, now_s - frame.heartbeat_ack.ping_ms / 1000)
            case "report_ack":
                return self._reports_durable(frame.report_ack.sequence, now_s)
            case "command":
                return [CommandArrived(frame.command)]
            case "cancel":
                return [CancelArrived(frame.cancel.command_id)]
            case "result_ack":
                return [ResultAcknowledged(frame.result_ack.command_id)]
            case "want_values":
                return self._chunks_wanted(frame.want_values, now_s)
            case "attestation_challenge":
                return self._to_attest(frame, now_s)
        return []

    def _welcomed(self, welcome: nodelink_pb2.Welcome, now_s: float) -> list[Effect]:
        self._move(Trigger.WELCOMED_LOCKED if welcome.locked else Trigger.WELCOMED)
        ttl_s = span_s(welcome.lease_ttl) if welcome.HasField("lease_ttl") else DEFAULT_LEASE_TTL_S
        self._lease_ttl_s = min(max(ttl_s, SHORTEST_LEASE_TTL_S), LONGEST_LEASE_TTL_S)
        heartbeat_s = self._default_heartbeat_s
        if welcome.HasField("heartbeat_interval"):
            heartbeat_s = span_s(welcome.heartbeat_interval)
        heartbeat_s = min(heartbeat_s, self._lease_ttl_s / HEARTBEATS_PER_LEASE)
        self._heartbeat_s = max(heartbeat_s, SHORTEST_HEARTBEAT_S)
        self._heartbeat_at_s = self._linked_at_s = now_s
        self._silent_at_s = now_s + self._lease_ttl_s
        self._reports_acknowledged = self._reports_sent = welcome.reports_acknowledged
        self._token = welcome.session_token
        self._has_turn = False
        self._attestation, self._has_attested = b"", False
        self._results.clear()
        self._wanted.clear()
        sign_over = welcome.session_token if welcome.signed else None
        return [Welcomed(welcome.domain, welcome.reports_acknowledged, sign_over)]

    def _reports_durable(self, sequence: int, now_s: float) -> list[Effect]:
        if sequence > self._reports_sent:
            detail = f"report {sequence} acknowledged, but only {self._reports_sent} were sent"
            return self.leave(Trigger.PROTOCOL_BROKEN, detail, now_s)
        self._reports_acknowledged = max(self._reports_acknowledged, sequence)
        return [ReportsAcknowledged(sequence)]

    def _chunks_wanted(self, want: nodelink_pb2.WantValues, now_s: float) -> list[Effect]:
        waiting = set(self._wanted)
        fresh = dict.fromkeys(digest for digest in want.digests if digest not in waiting)
        if len(self._wanted) + len(fresh) > MAX_WANTED_CHUNKS:
            detail = f"more than {MAX_WANTED_CHUNKS} chunks wanted at a time"
            return self.leave(Trigger.PROTOCOL_BROKEN, detail, now_s)
        self._wanted.extend(fresh)
        return []

    def _to_attest(self, frame: nodelink_pb2.ConnectResponse, now_s: float) -> list[Effect]:
        nonce = frame.attestation_challenge.nonce
        if len(nonce) != NONCE_BYTES:
            detail = f"a challenge to attest with a nonce of {len(nonce)} bytes, not {NONCE_BYTES}"
            return self.leave(Trigger.PROTOCOL_BROKEN, detail, now_s)
        self._attestation, self._has_attested = nonce, False
        return [AttestationAsked(frame.fence.controller, nonce)]

    def _sent_away(self, goodbye: nodelink_pb2.LinkGoodbye, now_s: float) -> list[Effect]:
        known = goodbye.reason in nodelink_pb2.LinkEnd.values()
        reason = nodelink_pb2.LinkEnd.Name(goodbye.reason) if known else str(goodbye.reason)
        retry_after_s = span_s(goodbye.retry_after) if goodbye.HasField("retry_after") else None
        detail = f"{reason} {goodbye.message}".rstrip()
        return self.leave(Trigger.SENT_AWAY, detail, now_s, retry_after_s)

    def fence_kept(self, fence: Fence) -> None:
        """The fence is durable. Until then it does not count as met, and the next frame asks for it again."""
        self._fence = fence

    def leave(
        self, trigger: Trigger, detail: str, now_s: float, retry_after_s: float | None = None
    ) -> list[Effect]:
        """The stream ends for us, by `trigger`. The next address follows after its pause."""
        stood = self.state in STANDING
        if not self._move(trigger):
            return []
        self.rtt_s = None
        steady = stood and now_s - self._linked_at_s >= STEADY_LINK_S
        self._plan.ended(self._address, now_s, steady=steady, retry_after_s=retry_after_s)
        return [LinkLeft(self._address, trigger, detail, stood)]

    def stop(self, now_s: float) -> None:
        """The agent stops: a standing link says goodbye first."""
        if self._move(Trigger.STOP_ASKED):
            self._silent_at_s = now_s + CLOSING_TIMEOUT_S

    def result_ready(self, command_id: str) -> None:
        """A result is recorded and not acknowledged. Ignored while none may be sent: what ends that begins with all."""
        if self.state in (LinkState.LINKED, LinkState.ISOLATED) and command_id not in self._results:
            self._results.append(command_id)

    def attested(self, nonce: bytes) -> None:
        """The statement for a challenge is there. Ignored for any but the one that waits."""
        self._has_attested |= nonce == self._attestation and nonce != b""

    def willing(self, now_s: float) -> Iterator[Send]:
        """What may be sent now, most urgent first. The driver sends the first that it can fetch.

        Signs of life go before statements, statements before results, results before reports, reports before the
        chunks they name. Behind the lock there are signs of life, and the backlog in its turn.
        """
        if self.state is LinkState.GREETING:
            if not self._hello_sent:
                yield SendHello()
            elif self._challenge is not None:
                yield self._challenge
        if self.state is LinkState.CLOSING:
            yield SendGoodbye()
        if self.state not in STANDING:
            return
        if now_s >= self._heartbeat_at_s:
            yield SendHeartbeat(round(now_s * 1000), self.rtt_s)
        if self._has_turn and self.state is LinkState.RETURNING:
            yield SendReplayChunk()
        if self._has_attested:
            yield SendAttestation(self._attestation)
        while self._results:
            yield SendResult(self._results[0])
        in_flight = self._reports_sent - self._reports_acknowledged
        if self.state is LinkState.LINKED and in_flight < REPORT_WINDOW:
            yield SendReport(self._reports_sent)
        while self._wanted:
            yield SendChunk(self._wanted[0])

    def not_there(self, send: Send) -> None:
        """There is nothing to fetch for `send`: a result or chunk that is gone must not stand in the way."""
        match send:
            case SendResult():
                self._results.popleft()
            case SendAttestation():
                self._attestation, self._has_attested = b"", False
            case SendChunk():
                self._wanted.popleft()

    def sent(self, send: Send, now_s: float, report: int = 0, *, is_end: bool = False) -> None:
        """`send` is on its way. `report` is the number of the last report in it; with `is_end`, it ends the replay."""
        match send:
            case SendHello():
                self._hello_sent = True
            case SendProof():
                self._challenge = None
            case SendReplayChunk():
                self._reports_sent = max(self._reports_sent, report)
                self._has_turn = not is_end
            case SendHeartbeat():
                self._heartbeat_at_s = now_s + self._heartbeat_s
            case SendResult():
                self._results.popleft()
            case SendAttestation():
                self._attestation, self._has_attested = b"", False
            case SendReport():
                self._reports_sent = report
            case SendChunk():
                self._wanted.popleft()
            case SendGoodbye():
                self._move(Trigger.GOODBYE_SENT)

    def _move(self, trigger: Trigger) -> bool:
        edge = TRANSITIONS.get((self.state, trigger))
        if edge is None:
            return False
        self.state = edge.to
        return True
