"""Waivers: drifts of a node that are accepted, for a reason and until a time. Owns which difference a waiver accepts,
and what a new set of waivers may be; computes no drift.
"""

from __future__ import annotations

from collections.abc import Mapping

from controller.twin.configuration_drift import Leaf, equal, leaf_of, value_of
from controller.twin.facts import timestamp
from federation.errors import InvalidWrite, NotFound, WrongState
from souverix.fleet.v1 import drift_pb2

#: What waivers name; fields of the configuration follow the last one after a dot.
VERSION_FIELD = "target_version"
POLICY_FIELD = "policy_version"
CONFIGURATION_FIELD = "configuration"

#: Waivers of one node: a node with more accepted drifts wants another desired state.
MAX_WAIVERS = 64

#: Longest life of a waiver: what shall differ for longer belongs in the desired state.
MAX_WAIVER_DAYS = 366

_DAY_MS = 24 * 3600 * 1000


class Waivers:
    """The waivers of one node that are in force at a time."""

    def __init__(self, held: drift_pb2.DriftWaivers | None, now_ms: int) -> None:
        self._active = [
            waiver
            for waiver in (held.waivers if held is not None else ())
            if waiver.expire_time.ToMilliseconds() > now_ms
        ]

    def accepting(self, field: str, actual: Leaf) -> drift_pb2.DriftWaiver | None:
        """The waiver that accepts a field's actual value; None when none does."""
        for waiver in self._active:
            if waiver.any_value:
                if _covers(waiver.field, field):
                    return waiver
            elif waiver.field == field and equal(leaf_of(waiver.accepted_value), actual):
                return waiver
        return None

    def active(self) -> list[drift_pb2.DriftWaiver]:
        """All that are in force."""
        return list(self._active)


def check_waiver(field: str, reason: str, expire_ms: int | None, now_ms: int) -> None:
    """Raises `InvalidWrite` for a waiver that nobody may ask for."""
    if field not in (VERSION_FIELD, POLICY_FIELD) and not _covers(CONFIGURATION_FIELD, field):
        raise InvalidWrite(
            f"field {field[:80]!r} is none that drifts; name {VERSION_FIELD}, {POLICY_FIELD}, or a field of the "
            f'configuration such as "{CONFIGURATION_FIELD}.stir.mode"',
            field="field",
        )
    if not reason:
        raise InvalidWrite("reason is required: say why this drift is accepted", field="reason")
    if expire_ms is None:
        raise InvalidWrite(
            "expire_time is required: no drift is accepted for good", field="expire_time"
        )
    if expire_ms <= now_ms:
        raise InvalidWrite("expire_time has passed already", field="expire_time")
    if expire_ms > now_ms + MAX_WAIVER_DAYS * _DAY_MS:
        raise InvalidWrite(
            f"expire_time is more than {MAX_WAIVER_DAYS} days ahead; change the desired state instead",
            field="expire_time",
        )


def with_waiver(
    held: drift_pb2.DriftWaivers | None,
    waiver: drift_pb2.DriftWaiver,
    standing: Mapping[str, Leaf],
    now_ms: int,
) -> drift_pb2.DriftWaivers:
    """The waivers with one more, or one replaced; expired ones are left out.

    `standing` are the actual values of the fields that differ now, accepted or not: one of them is accepted, unless the
    waiver takes any value. Raises `WrongState` when the field does not differ, or there are too many waivers.
    """
    kept = [each for each in Waivers(held, now_ms).active() if each.field != waiver.field]
    if len(kept) >= MAX_WAIVERS:
        raise WrongState(
            f"the node has {MAX_WAIVERS} waivers; revoke one, or change what is desired of it"
        )
    accepted = drift_pb2.DriftWaiver()
    accepted.CopyFrom(waiver)
    accepted.time.CopyFrom(timestamp(now_ms))
    if not waiver.any_value:
        if waiver.field not in standing:
            known = ", ".join(sorted(standing)[:8]) or "none"
            raise WrongState(
                f"{waiver.field} does not drift as far as known here (what does: {known}); name one of these, or "
                "accept any value",
                field=waiver.field,
            )
        value = value_of(standing[waiver.field])
        if value is not None:
            accepted.accepted_value.CopyFrom(value)
    return drift_pb2.DriftWaivers(waivers=[*kept, accepted])


def without_waiver(
    held: drift_pb2.DriftWaivers | None, field: str, now_ms: int
) -> drift_pb2.DriftWaivers:
    """The waivers without the one of a field; expired ones are left out. Raises `NotFound`."""
    active = Waivers(held, now_ms).active()
    kept = [each for each in active if each.field != field]
    if len(kept) == len(active):
        known = ", ".join(each.field for each in active) or "none"
        raise NotFound(f"there is no waiver of {field[:80]!r}; waived are: {known}", field="field")
    return drift_pb2.DriftWaivers(waivers=kept)


def _covers(scope: str, field: str) -> bool:
    return field == scope or field.startswith(f"{scope}.")
