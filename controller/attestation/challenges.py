"""The challenges that wait for a statement. Owns their bounds, that each is good once, for a while and over the link it
was made for, and why another statement is refused; times are monotonic seconds.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from controller.attestation.statement import Speaker, StatementRefused

#: How long a challenge is good for: a satellite link, and a slow host that measures itself.
CHALLENGE_TTL_S: Final = 30.0

#: Challenges that wait at a time, one a node: as many statements as may come at once, each judged in well under a
#: millisecond. Further nodes have their turn when an answer comes or a challenge ends.
MAX_OUTSTANDING: Final = 1024

#: Challenges remembered after they were answered or ended, to tell a repeat from a late answer from a made-up one.
MAX_REMEMBERED: Final = 4096


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge. `link` tells one link of a node from the next."""

    nonce: bytes
    speaker: Speaker
    link: bytes
    made_s: float
    #: The demand that stood when it was made, which a statement answers; None: none did.
    demand_ms: int | None


class Challenges:
    """All challenges of one mastership."""

    def __init__(self, ttl_s: float = CHALLENGE_TTL_S, most: int = MAX_OUTSTANDING) -> None:
        self._ttl_s = ttl_s
        self._most = most
        self._waiting: OrderedDict[str, Challenge] = OrderedDict()
        self._over: OrderedDict[bytes, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Tells whether no other node can be challenged now."""
        return len(self._waiting) >= self._most

    def waits_for(self, node: str) -> bool:
        """Tells whether a node has been challenged and has not answered."""
        return node in self._waiting

    def make(self, challenge: Challenge) -> None:
        """Takes in a challenge; an earlier one of the node is void. There must be room."""
        self.drop(challenge.speaker.node)
        self._waiting[challenge.speaker.node] = challenge

    def take(self, node: str, link: bytes, nonce: bytes, now_s: float) -> Challenge:
        """The challenge that a statement answers, which is used up by it. Raises `StatementRefused`.

        A statement that answers another challenge leaves the one that waits as it is.
        """
        waiting = self._waiting.get(node)
        if waiting is None or waiting.nonce != nonce or waiting.link != link:
            raise self._unasked(nonce)
        del self._waiting[node]
        if now_s - waiting.made_s > self._ttl_s:
            self._remember(nonce, "LATE")
            raise self._unasked(nonce)
        self._remember(nonce, "REPLAYED")
        return waiting

    def drop(self, node: str) -> None:
        """The node's challenge is void: its link is gone."""
        waiting = self._waiting.pop(node, None)
        if waiting is not None:
            self._remember(waiting.nonce, "LATE")

    def unanswered(self, now_s: float) -> list[str]:
        """The nodes whose time to answer is over, which ends their challenges."""
        ended = []
        while self._waiting:
            node, oldest = next(iter(self._waiting.items()))
            if now_s - oldest.made_s <= self._ttl_s:
                break
            self.drop(node)
            ended.append(node)
        return ended

    def ends_s(self) -> float | None:
        """When the oldest challenge ends; None when none waits."""
        if not self._waiting:
            return None
        return next(iter(self._waiting.values())).made_s + self._ttl_s

    def clear(self) -> None:
        """Another mastership begins."""
        self._waiting.clear()
        self._over.clear()

    def _unasked(self, nonce: bytes) -> StatementRefused:
        reason = self._over.get(nonce, "UNSOLICITED")
        words = {
            "REPLAYED": "its challenge was answered before; each is good for one statement",
            "LATE": f"its challenge has ended; each is good for {self._ttl_s:g} s, over one link",
            "UNSOLICITED": "no challenge with its nonce was made for this link",
        }
        return StatementRefused(reason, words[reason])

    def _remember(self, nonce: bytes, reason: str) -> None:
        self._over[nonce] = reason
        while len(self._over) > MAX_REMEMBERED:
            self._over.popitem(last=False)
