"""What the link asks of its driver: effects to carry out, and permissions to send.

Owns the vocabulary between the sans-IO link and whoever drives it. Holds no behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from nodeagent.fence import Fence
from souverix.nodelink.v1 import nodelink_pb2


class Trigger(Enum):
    """What moves the link from one state to another."""

    DIAL_DUE = "dial due"
    WELCOMED = "welcomed"
    WELCOMED_LOCKED = "welcomed, and locked"
    LOCK_RELEASED = "lock released"
    ISOLATED = "isolated"
    STREAM_ENDED = "stream ended"
    SILENCE = "silence"
    STALE_FENCE = "stale fence"
    SENT_AWAY = "sent away"
    PROTOCOL_BROKEN = "protocol broken"
    OWN_FAILURE = "own failure"
    STOP_ASKED = "stop asked"
    GOODBYE_SENT = "goodbye sent"


@dataclass(frozen=True, slots=True)
class Dial:
    """Effect: open a stream to this address."""

    address: str


@dataclass(frozen=True, slots=True)
class KeepFence:
    """Effect: keep this fence durably before anything that follows takes effect."""

    fence: Fence


@dataclass(frozen=True, slots=True)
class Welcomed:
    """Effect: the link stands. Reports up to `reports_acknowledged` are durable at the controller. What is said must be
    signed over `sign_over`; None: need not be signed.
    """

    domain: str
    reports_acknowledged: int
    sign_over: bytes | None = None


@dataclass(frozen=True, slots=True)
class TurnCame:
    """Effect: prepare to replay what waits. The end is signed over `token`, which names the session."""

    turn: nodelink_pb2.ReplayTurn
    token: bytes


@dataclass(frozen=True, slots=True)
class LockReleased:
    """Effect: the backlog is in effect at the controller; what waited for that may go."""


@dataclass(frozen=True, slots=True)
class Isolated:
    """Effect: the controller refused the backlog. It stays where it is until people have looked."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class ReportsAcknowledged:
    """Effect: reports up to this number are durable at the controller."""

    sequence: int


@dataclass(frozen=True, slots=True)
class CommandArrived:
    """Effect: a command to be entered in the ledger."""

    frame: nodelink_pb2.CommandFrame


@dataclass(frozen=True, slots=True)
class CancelArrived:
    """Effect: a wish to stop a command."""

    command_id: str


@dataclass(frozen=True, slots=True)
class ResultAcknowledged:
    """Effect: the controller has this command's result."""

    command_id: str


@dataclass(frozen=True, slots=True)
class AttestationAsked:
    """Effect: this controller wants a statement of what the node measures, bound to this nonce."""

    controller: str
    nonce: bytes


@dataclass(frozen=True, slots=True)
class FrameRefused:
    """Effect: count and log a frame under a lower fence. Nothing else of it takes effect."""

    offered: Fence
    highest: Fence


@dataclass(frozen=True, slots=True)
class LinkLeft:
    """Effect: the stream is over for us; close it. `stood`: it had been welcomed."""

    address: str
    trigger: Trigger
    detail: str
    stood: bool


Effect = (
    Dial
    | KeepFence
    | Welcomed
    | TurnCame
    | LockReleased
    | Isolated
    | ReportsAcknowledged
    | CommandArrived
    | CancelArrived
    | ResultAcknowledged
    | AttestationAsked
    | FrameRefused
    | LinkLeft
)


@dataclass(frozen=True, slots=True)
class SendHello:
    """Permission: say who we are."""


@dataclass(frozen=True, slots=True)
class SendProof:
    """Permission: prove to this controller that we hold the node's key."""

    controller: str
    nonce: bytes


@dataclass(frozen=True, slots=True)
class SendReplayChunk:
    """Permission: the next piece of the backlog."""


@dataclass(frozen=True, slots=True)
class SendHeartbeat:
    """Permission: a sign of life. `rtt_s` is the last measured round trip, None before the first."""

    ping_ms: int
    rtt_s: float | None


@dataclass(frozen=True, slots=True)
class SendResult:
    """Permission: the recorded result of this command."""

    command_id: str


@dataclass(frozen=True, slots=True)
class SendAttestation:
    """Permission: the statement for the challenge with this nonce."""

    nonce: bytes


@dataclass(frozen=True, slots=True)
class SendReport:
    """Permission: the first report numbered above `after`."""

    after: int


@dataclass(frozen=True, slots=True)
class SendChunk:
    """Permission: the chunk with this digest."""

    digest: str


@dataclass(frozen=True, slots=True)
class SendGoodbye:
    """Permission: take leave."""


Send = (
    SendHello
    | SendProof
    | SendHeartbeat
    | SendReplayChunk
    | SendResult
    | SendAttestation
    | SendReport
    | SendChunk
    | SendGoodbye
)
