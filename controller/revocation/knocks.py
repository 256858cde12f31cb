"""Who still calls with a certificate that was revoked. Owns what is remembered of these callers, within bounds; it is
what one controller sees, and no fact.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

#: Callers remembered: more than anybody looks at. Beyond it those that were silent longest are forgotten.
MAX_CALLERS = 1000

#: A caller that was silent for so long has given up, or has a new certificate: agents try every half minute. That its
#: name came in meanwhile says nothing: a thief may call beside the one it robbed.
SILENT_AFTER_MS = 15 * 60 * 1000


@dataclass(frozen=True, slots=True)
class Knock:
    """One caller. Times are milliseconds since the epoch."""

    #: Domain whose authority issued the certificate, and whom it names.
    domain: str
    principal: str
    first_ms: int
    last_ms: int
    #: Why it is refused, in words.
    words: str


class Knocks:
    """The callers of one replica. `now_ms` tells the time since the epoch."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        #: Whoever called last is the last.
        self._callers: OrderedDict[tuple[str, str], Knock] = OrderedDict()

    def take(self, domain: str, principal: str, words: str) -> None:
        """Takes note of a refused call."""
        caller, now_ms = (domain, principal), self._now_ms()
        known = self._callers.get(caller)
        if known is None or now_ms - known.last_ms > SILENT_AFTER_MS:
            known = Knock(domain, principal, now_ms, now_ms, words)
        self._callers[caller] = replace(known, last_ms=now_ms, words=words)
        self._callers.move_to_end(caller)
        if len(self._callers) > MAX_CALLERS:
            self._callers.popitem(last=False)

    def recent(self) -> Iterator[Knock]:
        """The callers that have not been silent for long."""
        now_ms = self._now_ms()
        while self._callers:
            oldest = next(iter(self._callers.values()))
            if now_ms - oldest.last_ms <= SILENT_AFTER_MS:
                break
            self._callers.popitem(last=False)
        yield from list(self._callers.values())
