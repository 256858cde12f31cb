"""The section [connectivity]: what is set counts, for all and for a domain, and what cannot be is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.config import ConfigError
from tests.unit.controller.written_config import ROOT, loaded


def test_thresholds_of_connectivity_are_set_for_all_and_for_a_domain(tmp_path: Path) -> None:
    text = """
[connectivity]
autonomous_after_s = 3
[[connectivity.domains]]
domain = "moon"
delayed_rtt_s = 4.5
"""
    section = loaded(tmp_path, ROOT + text).connectivity
    assert section.of_all().autonomous_after_s == 3.0
    assert section.of_all().delayed_rtt_s == 1.0
    moon = section.of_domains()["moon"]
    assert (moon.autonomous_after_s, moon.delayed_rtt_s) == (3.0, 4.5)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("[connectivity]\nlive_rtt_share = 1.5", "live_rtt_share"),
        ("[connectivity]\nreplay_backlog = 0", "replay_backlog"),
        ("[connectivity]\nautonomous_after_s = -1", "autonomous_after_s"),
        ("[connectivity]\ndisconnected_after_s = 1", "disconnected_after_s"),
        ('[[connectivity.domains]]\ndomain = "Not An Id"', "no id"),
        (
            '[[connectivity.domains]]\ndomain = "a"\n[[connectivity.domains]]\ndomain = "a"',
            "already",
        ),
    ],
)
def test_thresholds_of_connectivity_that_make_no_sense_are_refused(
    tmp_path: Path, text: str, cause: str
) -> None:
    with pytest.raises(ConfigError, match=cause):
        loaded(tmp_path, f"{ROOT}\n{text}\n")
