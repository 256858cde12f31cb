"""One agent's stream as the controller holds it. Owns the outbox, the fence on every frame, and how the stream ends;
knows nothing of what frames mean.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from controller.bearer import Bearer
from controller.nodelink.session import Session
from souverix.nodelink.v1 import nodelink_pb2

#: Frames that may wait for a slow agent: a window of commands, their cancels, and acknowledgements. Beyond it the agent
#: is dropped; nothing is lost, for all of it is sent again over the next link.
MAX_OUTBOX_FRAMES = 256

#: How long a goodbye may take to leave before the stream is cut.
GOODBYE_GRACE_S = 2.0

NOT_MASTER_MESSAGE = "this replica ceased to be the master; try the controller's other addresses"


@dataclass(frozen=True, slots=True)
class End:
    """Why a link ended, for the node's history. `is_news` is False where the node's connectivity did not change."""

    reason: str
    evidence: str
    is_news: bool = True


@dataclass(frozen=True, slots=True)
class Contest:
    """Another agent with a node's key that was refused: where and when it called, through which relay, with whose
    certificate (its fingerprint). `at_s` is monotonic seconds.
    """

    peer: str
    relay: str
    certificate: str
    at_s: float


class Link:
    """One stream. `may_speak` tells whether the mastership lease stands; without it nothing but goodbyes leaves."""

    def __init__(
        self,
        node: str,
        domain: str,
        source: str,
        run: str,
        session: Session,
        fence: nodelink_pb2.Fence,
        now_s: float,
        may_speak: Callable[[], bool],
    ) -> None:
        self.node = node
        self.domain = domain
        self.source = source
        self.run = run
        self.session = session
        self.fence = fence
        #: Where the agent calls from.
        self.peer = ""
        #: Id of the relay it comes through; empty: none.
        self.relay = ""
        #: Whose certificate vouches for the agent's key; None without TLS.
        self.vouched: Bearer | None = None
        #: The same, where the stream does not end with that certificate by itself: a relay's, that said nothing of it.
        self.watched: Bearer | None = None
        self.opened_s = now_s
        self.heard_s = now_s
        self.rtt_s: float | None = None
        self.backlog_reports = 0
        #: Another agent with the node's key, while it is not known which of the two is alive.
        self.contest: Contest | None = None
        #: Set once, by whichever comes first: the agent leaves, the stream breaks, or this side ends it.
        self.end_reason: End | None = None
        self._may_speak = may_speak
        self._outbox: deque[nodelink_pb2.ConnectResponse] = deque()
        self._goodbye: nodelink_pb2.ConnectResponse | None = None
        self._to_send = asyncio.Event()
        self._task: asyncio.Task[object] | None = None
        self._cut: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        """Tells whether frames still go out and come in."""
        return self.end_reason is None

    def send(self, frame: nodelink_pb2.ConnectResponse) -> bool:
        """Queues a frame; False when the link has ended or ends now because its agent is too slow."""
        if not self.is_open:
            return False
        if len(self._outbox) >= MAX_OUTBOX_FRAMES:
            self.end(
                nodelink_pb2.LINK_END_UNSPECIFIED,
                f"{MAX_OUTBOX_FRAMES} frames wait: the agent reads too slowly",
                End("too_slow", f"{MAX_OUTBOX_FRAMES} frames waited to be read"),
            )
            return False
        self._outbox.append(self._fenced(frame))
        self._to_send.set()
        return True

    def end(
        self,
        reason: nodelink_pb2.LinkEnd,
        message: str,
        end: End,
        retry_after_s: float = 0,
    ) -> None:
        """Ends the stream with a goodbye. Frames that wait are dropped: the next link repeats them."""
        if not self.is_open:
            return
        self.end_reason = end
        self._outbox.clear()
        self._goodbye = self._fenced(goodbye(reason, message, retry_after_s))
        self._to_send.set()
        if self._task is not None:
            self._cut = asyncio.get_running_loop().call_later(GOODBYE_GRACE_S, self._task.cancel)

    def left(self, end: End) -> None:
        """The agent has gone: there is nobody to say goodbye to."""
        if self.is_open:
            self.end_reason = end
            self._to_send.set()

    async def frames(self) -> AsyncGenerator[nodelink_pb2.ConnectResponse, None]:
        """What goes out, until the link ends. The lease is checked right before each frame leaves."""
        self._task = asyncio.current_task()
        try:
            while self.is_open:
                while self._outbox and self.is_open:
                    if not self._may_speak():
                        self.end(
                            nodelink_pb2.LINK_END_NOT_MASTER,
                            NOT_MASTER_MESSAGE,
                            End("master_lost", "the lease ran out", is_news=False),
                        )
                        break
                    yield self._outbox.popleft()
                if self.is_open:
                    self._to_send.clear()
                    await self._to_send.wait()
            if self._goodbye is not None:
                yield self._goodbye
        finally:
            if self._cut is not None:
                self._cut.cancel()

    def _fenced(self, frame: nodelink_pb2.ConnectResponse) -> nodelink_pb2.ConnectResponse:
        frame.fence.CopyFrom(self.fence)
        return frame


def goodbye(
    reason: nodelink_pb2.LinkEnd, message: str, retry_after_s: float = 0
) -> nodelink_pb2.ConnectResponse:
    """The frame that ends a link."""
    said = nodelink_pb2.LinkGoodbye(reason=reason, message=message)
    if retry_after_s > 0:
        delay = Duration()
        delay.FromMilliseconds(int(retry_after_s * 1000))
        said.retry_after.CopyFrom(delay)
    return nodelink_pb2.ConnectResponse(goodbye=said)
