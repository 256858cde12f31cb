"""Which nodes may be in trouble, by the columns of the read model: those worth a look after a start. Owns the choice;
it may take in too many, and judges nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from controller.attention.rules import Limits
from controller.attestation.states import Integrity
from controller.connectivity.spectrum import Mode
from controller.query.columns import NodeColumns
from controller.query.summary import NEVER
from souverix.fleet.v1 import drift_pb2, lifecycle_pb2, node_pb2

_AWAY_OR_RETURNING: Final = (
    Mode.AUTONOMOUS,
    Mode.DISCONNECTED,
    Mode.RETURNING,
    Mode.REPLAYING,
)
_UNHEALTHY: Final = (node_pb2.RUNTIME_HEALTH_DEGRADED, node_pb2.RUNTIME_HEALTH_FAILED)
_NOT_VERIFIED: Final = (Integrity.FAILED, Integrity.EXPIRED, Integrity.UNKNOWN)
_PHASES: Final = (
    lifecycle_pb2.LIFECYCLE_PHASE_UPDATING,
    lifecycle_pb2.LIFECYCLE_PHASE_DEGRADED,
    lifecycle_pb2.LIFECYCLE_PHASE_QUARANTINED,
    lifecycle_pb2.LIFECYCLE_PHASE_DECOMMISSIONING,
)


def suspects(columns: NodeColumns, limits: Limits, now_ms: int) -> Iterator[str]:
    """The nodes as they stand in the columns now: "nodes/{id}"."""
    ids = columns.ids
    for row in np.flatnonzero(_may_be_in_trouble(columns, limits, now_ms)).tolist():
        yield f"nodes/{ids.id_of(row)}"


def attesting(columns: NodeColumns, domains: Collection[str]) -> Iterator[str]:
    """The nodes of some domains that have attested: "nodes/{id}"."""
    codes = [columns.values["domain"].known(domain) for domain in domains]
    found = columns.column("present") & (columns.column("integrity") > 0)
    found &= np.isin(columns.column("domain"), [code for code in codes if code is not None])
    for row in np.flatnonzero(found).tolist():
        yield f"nodes/{columns.ids.id_of(row)}"


def run_out(columns: NodeColumns, after_ms: int, until_ms: int) -> Iterator[str]:
    """The nodes whose verification ceased to count after one time and by another: "nodes/{id}"."""
    ends = columns.column("attested_until_ms")
    found = columns.column("present") & (columns.column("integrity") == Integrity.VERIFIED)
    found &= (ends > after_ms) & (ends <= until_ms)
    for row in np.flatnonzero(found).tolist():
        yield f"nodes/{columns.ids.id_of(row)}"


def _may_be_in_trouble(columns: NodeColumns, limits: Limits, now_ms: int) -> npt.NDArray[np.bool_]:
    drifting = columns.column("drift_state") == drift_pb2.DRIFT_STATE_DRIFTING
    found: npt.NDArray[np.bool_] = columns.column("present") & (
        np.isin(columns.column("mode"), _AWAY_OR_RETURNING)
        | (columns.column("mode_since_ms") > now_ms - int(limits.flap_window_s * 1000))
        | drifting
        | (columns.column("drift_waived") > 0)
        | np.isin(columns.column("health"), _UNHEALTHY)
        | np.isin(columns.column("phase"), _PHASES)
        | columns.column("conflicted")
        | columns.column("incident")
        | np.isin(columns.column("integrity"), _NOT_VERIFIED)
        | _clock_is_off(columns, limits)
    )
    return found


def _clock_is_off(columns: NodeColumns, limits: Limits) -> npt.NDArray[np.bool_]:
    came_ms, made_ms = columns.column("report_ms"), columns.column("node_clock_ms")
    told = (came_ms != NEVER) & (made_ms != NEVER)
    # In floating point: the difference of two times that nodes may make up can be more than 63 bits.
    ahead_s = (made_ms.astype(np.float64) - came_ms) / 1000
    off: npt.NDArray[np.bool_] = told & (
        (ahead_s > limits.node_clock_ahead_s) | (ahead_s < -limits.node_clock_behind_s)
    )
    return off
