"""The section [lifecycle]: who moves nodes on, for all and for a domain."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.config import ConfigError
from tests.unit.controller.written_config import ZONE, loaded


def test_who_moves_nodes_on_is_told_for_all_and_by_domain(tmp_path: Path) -> None:
    text = (
        ZONE
        + """
[lifecycle]
enrolment = "by-operator"
degrade_after_s = 5
[[lifecycle.domains]]
domain = "cell-1"
enrolment = "automatic"
"""
    )
    section = loaded(tmp_path, text).lifecycle
    assert (section.of_all().enrolment, section.of_all().activation) == (False, True)
    own = section.of_domains()["cell-1"]
    assert (own.enrolment, own.degrade_after_s) == (True, 5.0)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ('enrolment = "maybe"', "lifecycle.enrolment 'maybe' is not one of automatic, by-operator"),
        ("recover_after_s = -1", "lifecycle.recover_after_s -1.0 is out of range"),
        ("settle_s = 1", "unknown setting 'settle_s'"),
        ('[[lifecycle.domains]]\ndomain = "A"', "lifecycle.domains[0].domain 'A' is no id"),
        (
            '[[lifecycle.domains]]\ndomain = "a"\n[[lifecycle.domains]]\ndomain = "a"',
            "lifecycle.domains[1].domain 'a' is there already",
        ),
    ],
)
def test_a_wrong_lifecycle_section_is_refused(tmp_path: Path, lines: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, ZONE + "\n[lifecycle]\n" + lines)
    assert says in str(refused.value)
