"""ReplayService: the returns of nodes as operators see them. Owns what is shown of them, and when; never measures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from controller.nodelink.reception import Reception
from controller.nodelink.replays import Replay
from controller.replica import Replica
from controller.services.fleet_fields import check_domain_filter, check_id
from controller.services.paging import page_of
from controller.services.watching import MAX_WATCH_AGE_S
from controller.twin.facts import timestamp
from souverix.nodelink.v1 import replay_service_pb2 as wire
from souverix.nodelink.v1 import replay_service_pb2_grpc

#: Between two steps of a watch: progress is for people, and a chunk comes every few milliseconds.
STEP_INTERVAL_S = 0.5

#: Longest time without a step.
SIGN_OF_LIFE_S = 10.0

#: Most returns in one step; more follow in the next.
MAX_IN_A_STEP = 500


class ReplayService(replay_service_pb2_grpc.ReplayServiceServicer):
    """Answers from what the links of this replica measure; a standby has none."""

    def __init__(self, replica: Replica, desk: Reception) -> None:
        self._replica = replica
        self._desk = desk

    async def ListReplays(self, request: Any, context: Any) -> wire.ListReplaysResponse:  # noqa: N802
        """As in the contract."""
        self._replica.journal()
        self._check(request)
        page = page_of(request)
        chosen = sorted(
            (
                r
                for r in self._wanted(request)
                if r.node > page.after and not (request.running_only and r.ended_s is not None)
            ),
            key=lambda replay: replay.node,
        )
        shown = chosen[: page.size]
        now = _Now()
        return wire.ListReplaysResponse(
            replays=[now.message(replay) for replay in shown],
            next_page_token=page.token(shown[-1].node) if len(chosen) > len(shown) else "",
            deferred_nodes=self._desk.admission.deferred,
        )

    async def WatchReplays(  # noqa: N802
        self, request: Any, context: Any
    ) -> AsyncIterator[wire.WatchReplaysResponse]:
        """As in the contract."""
        self._check(request)
        shown, told_s = -1, float("-inf")
        end_s = time.monotonic() + MAX_WATCH_AGE_S
        while (now_s := time.monotonic()) < end_s:
            self._replica.journal()
            changed = sorted(
                (r for r in self._wanted(request) if r.version > shown),
                key=lambda replay: replay.version,
            )[:MAX_IN_A_STEP]
            if changed or now_s - told_s >= SIGN_OF_LIFE_S:
                now = _Now()
                yield wire.WatchReplaysResponse(
                    replays=[now.message(replay) for replay in changed],
                    deferred_nodes=self._desk.admission.deferred,
                )
                told_s = now_s
                shown = max((replay.version for replay in changed), default=shown)
            await asyncio.sleep(STEP_INTERVAL_S)

    def _check(self, request: Any) -> None:
        check_domain_filter(request.domain)
        if request.node:
            check_id(request.node, "node")

    def _wanted(self, request: Any) -> Iterable[Replay]:
        within = self._replica.state.authority.is_within
        return (
            replay
            for replay in self._desk.replays
            if (not request.node or replay.node == request.node)
            and (not request.domain or within(replay.domain, request.domain))
        )


class _Now:
    """Monotonic times of this process as dates."""

    def __init__(self) -> None:
        self._now_s = time.monotonic()
        self._now_ms = time.time_ns() // 1_000_000

    def message(self, replay: Replay) -> wire.Replay:
        """A record as the contract has it."""
        message = wire.Replay(
            node=replay.node,
            domain=replay.domain,
            state=wire.SessionState.Name(replay.state),
            reports_total=replay.total,
            reports_staged=replay.staged,
            reports_applied=replay.applied,
            begin_time=self._date(replay.began_s),
            resumed_reports=replay.resumed,
            reason=replay.reason,
        )
        rate_per_s = replay.rate_per_s(self._now_s)
        if rate_per_s is not None:
            message.rate_per_s = rate_per_s
        over_s = self._now_s if replay.ended_s is None else replay.ended_s
        message.elapsed.FromMilliseconds(int((over_s - replay.began_s) * 1000))
        if replay.ended_s is not None:
            message.end_time.CopyFrom(self._date(replay.ended_s))
        elif rate_per_s is not None:
            left_s = max(0, replay.total - replay.arrived) / rate_per_s
            message.eta.CopyFrom(self._date(self._now_s + left_s))
        if replay.drift_objects is not None:
            message.drift_objects = replay.drift_objects
        return message

    def _date(self, at_s: float) -> Timestamp:
        return timestamp(self._now_ms + int((at_s - self._now_s) * 1000))
