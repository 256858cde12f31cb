"""What running controllers of these tests wait for between two looks: a person's patience in use, a test's here."""

from __future__ import annotations

from types import ModuleType

import pytest

from controller import attention_duty, attention_feed, lifecycle_duty, replica
from controller.nodelink import connectivity
from controller.services import attention_watches, fleet_overviews, replays

#: Pauses that set how soon something is seen, not what is seen.
PAUSES_S: tuple[tuple[ModuleType, str, float], ...] = (
    (attention_duty, "LOOK_S", 0.1),
    (attention_feed, "PAUSE_S", 0.02),
    (attention_feed, "SWEEP_S", 0.1),
    (attention_watches, "LOOK_INTERVAL_S", 0.02),
    (lifecycle_duty, "PAUSE_S", 0.05),
    (connectivity, "SWEEP_INTERVAL_S", 0.1),
    (replica, "WITNESS_INTERVAL_S", 0.1),
    (replays, "STEP_INTERVAL_S", 0.05),
    (fleet_overviews, "WATCH_INTERVAL_S", 0.1),
)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Controllers in this process look often; those in processes of their own are as they are."""
    for module, name, pause_s in PAUSES_S:
        assert getattr(module, name) > pause_s
        monkeypatch.setattr(module, name, pause_s)
