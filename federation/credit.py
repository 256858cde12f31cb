"""Credit of one session, in bytes of runs: what the peer granted, and what it was granted. Owns the counting; never
decides what is sent.
"""

from __future__ import annotations

from federation.errors import PeerError
from federation.greeting import CREDIT_BYTES

#: Credit counted at most, whatever a peer grants: what is sent and not acknowledged waits in this process's memory.
MAX_CREDIT_BYTES = 8 * CREDIT_BYTES


class Credit:
    """Both directions of one session."""

    __slots__ = ("_granted", "_left", "under_way_bytes")

    def __init__(self) -> None:
        self._left = 0
        #: Bytes sent whose credit has not come back.
        self.under_way_bytes = 0
        #: Bytes the peer may still send by what it was granted.
        self._granted = CREDIT_BYTES

    @property
    def may_send(self) -> bool:
        """Tells whether a frame may go out; the last one may overdraw the credit by its own size."""
        return self._left > 0

    def opened(self, size: int) -> None:
        """The peer's first grant, in its greeting."""
        self._left = min(MAX_CREDIT_BYTES, size)

    def sent(self, size: int) -> None:
        """A frame with so many bytes of events goes out."""
        self._left -= size
        self.under_way_bytes += size

    def came_back(self, size: int) -> None:
        """The peer has taken in so many bytes."""
        self._left = min(MAX_CREDIT_BYTES, self._left + size)
        self.under_way_bytes = max(0, self.under_way_bytes - size)

    def check_granted(self) -> None:
        """A frame of runs came. Raises `PeerError` when the peer had no credit for it."""
        if self._granted <= 0:
            raise PeerError("more was sent than there was credit for")

    def received(self, size: int) -> None:
        """The frame held so many bytes of events."""
        self._granted -= size

    def gave_back(self, size: int) -> None:
        """So many bytes are durable here, and their credit is returned."""
        self._granted += size
