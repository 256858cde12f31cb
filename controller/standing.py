"""Calls that go on for as long as what proves their caller. Owns their end; judges no proof."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Generic, TypeVar

from controller.errors import ServiceError

if TYPE_CHECKING:
    from controller.bearer import Bearer

P = TypeVar("P")


class BearerRefused(ServiceError):
    """Whoever calls has no certificate or token that counts here, or is not who it says it is. Audited, whatever was
    called. `bearer` is set where the certificate is sound, and something else is wrong with it.
    """

    bearer: Bearer | None = None


class _Standing(Generic[P]):
    """A call that goes on."""

    def __init__(self, proof: P, scope: asyncio.Timeout) -> None:
        self.proof = proof
        self.refusal: BearerRefused | None = None
        self._scope = scope

    def end(self, refusal: BearerRefused) -> None:
        """Ends the call now, with a status."""
        if self.refusal is None:
            self.refusal = refusal
            self._scope.reschedule(asyncio.get_running_loop().time())


class StandingCalls(Generic[P]):
    """The calls that go on at one listener."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._calls: set[_Standing[P]] = set()

    @contextlib.asynccontextmanager
    async def standing(
        self, proof: P, not_after: datetime, ended: BearerRefused
    ) -> AsyncIterator[None]:
        """The call lasts as long as the block, at most until a time. Raises `ended` then, or why it was refused."""
        remaining_s = (not_after - self._now()).total_seconds()
        call: _Standing[P] | None = None
        try:
            async with asyncio.timeout(max(0.0, remaining_s)) as scope:
                call = _Standing(proof, scope)
                self._calls.add(call)
                yield
        except TimeoutError as error:
            if call is None or not scope.expired():
                raise
            raise call.refusal or ended from error
        finally:
            if call is not None:
                self._calls.discard(call)

    def recheck(self, judge: Callable[[P], object]) -> None:
        """Has the proofs of all calls judged anew; ends those for which `judge` raises `BearerRefused`."""
        for call in list(self._calls):
            try:
                judge(call.proof)
            except BearerRefused as refusal:
                call.end(refusal)
