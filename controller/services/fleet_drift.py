"""Drift: its waivers, and its sums over domains. Owns what these methods mean; how drift is computed is
`controller/twin/drift.py`'s.
"""

from __future__ import annotations

from typing import Any

from controller.replica import Replica
from controller.services.calls import caller_of
from controller.services.fleet_fields import check_text, id_in_name
from controller.services.fleet_nodes import NodeWrites
from controller.services.fleet_rules import required_node
from controller.twin.drift import DriftAnalyzer
from controller.twin.drift_waivers import check_waiver, with_waiver, without_waiver
from controller.twin.facts import body_of
from controller.writes import Draft
from federation.authority import Permission
from federation.errors import InvalidWrite
from federation.identifiers import Key
from souverix.fleet.v1 import drift_pb2, fleet_service_pb2

#: A waiver decides what counts as right, as a policy does.
PERMISSIONS = (Permission.POLICIES,)

#: Longest field of a waiver: a path of the deepest document with names of a line each.
MAX_FIELD_BYTES = 1024


class WaiverWrites:
    """The writes of waivers."""

    def __init__(self, replica: Replica, nodes: NodeWrites) -> None:
        self._replica = replica
        self._nodes = nodes

    async def waive(self, request: Any, context: Any) -> fleet_service_pb2.WaiveDriftResponse:
        """As `FleetService.WaiveDrift`."""
        subject = f"nodes/{id_in_name(request.name, 'nodes')}"
        check_text(request.field, "field", MAX_FIELD_BYTES)
        check_text(request.reason, "reason")
        if request.HasField("expire_time") and not _is_time(request.expire_time):
            raise InvalidWrite("expire_time is no time", field="expire_time")
        caller = caller_of(context)
        domain = required_node(self._replica.state, subject).home.domain

        def decide(draft: Draft) -> None:
            at = self._nodes.check(draft, request, subject, domain)
            now_ms = draft.proposal.wall_ms
            check_waiver(
                request.field,
                request.reason,
                request.expire_time.ToMilliseconds() if request.HasField("expire_time") else None,
                now_ms,
            )
            waiver = drift_pb2.DriftWaiver(
                field=request.field,
                reason=request.reason,
                expire_time=request.expire_time,
                any_value=request.any_value,
                principal=caller.principal,
            )
            drift = DriftAnalyzer(draft.proposal, now_ms).drift_of(at)
            differing = [*drift.objects, *(each for each, _ in drift.waived)]
            held = body_of(draft.proposal, Key(domain, subject, "drift_waiver"))
            standing = {each.field: each.actual for each in differing}
            waivers = with_waiver(held, waiver, standing, now_ms)
            draft.write(domain, subject, "drift_waiver", waivers)

        return await self._nodes.write(
            "WaiveDrift",
            request,
            caller,
            domain,
            subject,
            PERMISSIONS,
            decide,
            fleet_service_pb2.WaiveDriftResponse,
            with_drift=True,
        )

    async def revoke(
        self, request: Any, context: Any
    ) -> fleet_service_pb2.RevokeDriftWaiverResponse:
        """As `FleetService.RevokeDriftWaiver`."""
        subject = f"nodes/{id_in_name(request.name, 'nodes')}"
        check_text(request.field, "field", MAX_FIELD_BYTES)
        if not request.field:
            raise InvalidWrite("field is required: name the waiver by its field", field="field")
        domain = required_node(self._replica.state, subject).home.domain

        def decide(draft: Draft) -> None:
            self._nodes.check(draft, request, subject, domain)
            held = body_of(draft.proposal, Key(domain, subject, "drift_waiver"))
            waivers = without_waiver(held, request.field, draft.proposal.wall_ms)
            draft.write(domain, subject, "drift_waiver", waivers)

        return await self._nodes.write(
            "RevokeDriftWaiver",
            request,
            caller_of(context),
            domain,
            subject,
            PERMISSIONS,
            decide,
            fleet_service_pb2.RevokeDriftWaiverResponse,
            with_drift=True,
        )


def _is_time(time: Any) -> bool:
    """Tells whether the seconds are within the years 1 to 9999, as JSON can say them."""
    try:
        time.ToJsonString()
    except ValueError:
        return False
    return True
