"""Which nodes may be in trouble, by the columns of the read model: those worth a look after a start. Owns the choice;
it may take in too many, and judges nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from controller.connectivity.spectrum import Mode
from controller.query.columns import NodeColumns
from souverix.fleet.v1 import drift_pb2, lifecycle_pb2, node_pb2

_AWAY_OR_RETURNING: Final = (
    Mode.AUTONOMOUS,
    Mode.DISCONNECTED,
    Mode.RETURNING,
    Mode.REPLAYING,
)
_UNHEALTHY: Final = (node_pb2.RUNTIME_HEALTH_DEGRADED, node_pb2.RUNTIME_HEALTH_FAILED)
_PHASES: Final = (
    lifecycle_pb2.LIFECYCLE_PHASE_UPDATING,
    lifecycle_pb2.LIFECYCLE_PHASE_DEGRADED,
    lifecycle_pb2.LIFECYCLE_PHASE_QUARANTINED,
    lifecycle_pb2.LIFECYCLE_PHASE_DECOMMISSIONING,
)


def suspects(columns: NodeColumns, flap_window_s: float, now_ms: int) -> Iterator[str]:
    """The nodes as they stand in the columns now: "nodes/{id}"."""
    ids = columns.ids
    for row in np.flatnonzero(_may_be_in_trouble(columns, flap_window_s, now_ms)).tolist():
        yield f"nodes/{ids.id_of(row)}"


def _may_be_in_trouble(
    columns: NodeColumns, flap_window_s: float, now_ms: int
) -> npt.NDArray[np.bool_]:
    drifting = columns.column("drift_state") == drift_pb2.DRIFT_STATE_DRIFTING
    found: npt.NDArray[np.bool_] = columns.column("present") & (
        np.isin(columns.column("mode"), _AWAY_OR_RETURNING)
        | (columns.column("mode_since_ms") > now_ms - int(flap_window_s * 1000))
        | drifting
        | (columns.column("drift_waived") > 0)
        | np.isin(columns.column("health"), _UNHEALTHY)
        | np.isin(columns.column("phase"), _PHASES)
        | columns.column("conflicted")
    )
    return found
