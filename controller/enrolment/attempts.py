"""How often somebody may fail: against guessing, and against filling the log with refusals. Owns the counts; time
comes in as an argument.
"""

from __future__ import annotations

from collections import OrderedDict

from controller.nodelink.rate import TokenBucket

#: Callers remembered; beyond it the one seen least recently begins anew. Some 200 bytes each.
MAX_REMEMBERED = 4096


class Attempts:
    """Allows each caller a burst of failures, then a steady rate. What succeeds costs nothing."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s = per_s
        self._burst = burst
        self._of: OrderedDict[str, TokenBucket] = OrderedDict()

    def wait_s(self, caller: str, now_s: float) -> float:
        """Seconds until a caller may try again; 0: now."""
        bucket = self._of.get(caller)
        return bucket.wait_s(now_s) if bucket is not None else 0.0

    def note(self, caller: str, now_s: float) -> None:
        """A caller has failed."""
        bucket = self._of.get(caller)
        if bucket is None:
            bucket = self._of[caller] = TokenBucket(self._per_s, self._burst, now_s)
            if len(self._of) > MAX_REMEMBERED:
                self._of.popitem(last=False)
        self._of.move_to_end(caller)
        bucket.take(now_s)
