"""Which address to dial next, and when.

Owns the walk through the controller's addresses and the back-off. Sans-IO: time and chance come in as
arguments. Must never know why a link ended, only whether it was steady and what the other side asked for.

Within one round through the addresses the next follows almost at once, for another replica may be the master.
After a round without success the pause doubles, jittered (as in "Exponential Backoff And Jitter", AWS 2015), so
that a zone's nodes do not all come back in the same instant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

FIRST_PAUSE_S = 0.25
"""Pause after the first failed round: short, for most outages are a fail-over."""

LONGEST_PAUSE_S = 10.0
"""Longest pause by our own back-off: a returned controller is found within this."""

NEXT_ADDRESS_PAUSE_S = 0.1
"""Pause before the next address of the same round: keeps a list of dead addresses from becoming a busy loop."""

LONGEST_RETRY_AFTER_S = 300.0
"""Most that a controller's retry_after is honoured: a wrong value must not silence a node for days."""

RETRY_AFTER_JITTER = 0.2
"""Part of a retry_after that is added by chance, so that nodes sent away together return apart."""

Chance = Callable[[], float]
"""Gives a number in [0, 1)."""


@dataclass(frozen=True, slots=True)
class Dialling:
    """An address and the monotonic time, in seconds, from which it may be dialled."""

    address: str
    not_before_s: float


class DialPlan:
    """The walk through one node's controller addresses."""

    def __init__(self, addresses: Sequence[str], chance: Chance) -> None:
        self._addresses = tuple(addresses)
        self._chance = chance
        self._position = 0
        self._failed_rounds = 0
        self._pause_until_s = 0.0
        self._closed_until_s = dict.fromkeys(self._addresses, 0.0)

    def next(self) -> Dialling:
        """What to dial next: the address that may be dialled soonest; among equals, the next of the walk."""
        count = len(self._addresses)
        walk = [self._addresses[(self._position + step) % count] for step in range(count)]
        address = min(walk, key=self._opens_at)
        return Dialling(address, self._opens_at(address))

    def ended(
        self, address: str, now_s: float, *, steady: bool, retry_after_s: float | None
    ) -> None:
        """The link to `address` ended, or never stood.

        `steady`: it stood long enough to trust the address again. `retry_after_s`: what the other side asked for.
        """
        if steady:
            self._failed_rounds = 0
        self._position = self._addresses.index(address) + 1
        round_over = self._position % len(self._addresses) == 0
        if round_over:
            pause_s = min(FIRST_PAUSE_S * 2**self._failed_rounds, LONGEST_PAUSE_S)
            self._failed_rounds = min(self._failed_rounds + 1, 16)
        else:
            pause_s = NEXT_ADDRESS_PAUSE_S
        self._pause_until_s = now_s + pause_s * (0.5 + self._chance() / 2)
        if retry_after_s is not None:
            asked_s = min(max(retry_after_s, 0.0), LONGEST_RETRY_AFTER_S)
            self._closed_until_s[address] = now_s + asked_s * (
                1 + RETRY_AFTER_JITTER * self._chance()
            )

    def _opens_at(self, address: str) -> float:
        return max(self._pause_until_s, self._closed_until_s[address])
