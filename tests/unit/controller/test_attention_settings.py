"""The section [attention]: its defaults are the rules', what is set counts, what cannot be is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.attention.conditions import Kind, Severity
from controller.attention.rules import Limits, Weights
from controller.attention_settings import AttentionSection
from controller.config import ConfigError
from controller.config_file import load_config

CONFIG = f"""
[controller]
id = "global-control"
domain = "global"
data_dir = "data"

[trust]
signing_key = "key.pem"
root_public_key = "{"ab" * 32}"
genesis = "genesis.pb"

[attention]
"""


def load(tmp_path: Path, text: str) -> AttentionSection:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG + text)
    return load_config(path).attention


def test_what_is_not_set_is_as_the_rules_say(tmp_path: Path) -> None:
    section = load(tmp_path, "")
    assert section.limits() == Limits()
    assert section.weights() == Weights()


def test_what_is_set_counts(tmp_path: Path) -> None:
    section = load(
        tmp_path,
        """
        group_above = 5
        flaps = 3
        waiver_notice_s = 60
        age_cap = 10
        [attention.severities]
        critical = 20
        [[attention.kinds]]
        kind = "node-autonomous"
        weight = 0
        [[attention.domains]]
        domain = "edge-a1"
        weight = 2
        """,
    )
    assert section.group_above == 5
    assert (section.limits().flaps, section.limits().waiver_notice_s) == (3, 60.0)
    weights = section.weights()
    assert weights.kinds[Kind.NODE_AUTONOMOUS] == 0
    assert weights.kinds[Kind.NODE_DRIFT] == 10.0
    assert (weights.severities[Severity.CRITICAL], weights.age_cap) == (20.0, 10.0)
    assert weights.domains == {"edge-a1": 2.0}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("weight = 3", "unknown setting 'weight'"),
        ("group_above = 0", "attention.group_above 0"),
        ("flaps = 0", "attention.flaps 0"),
        ("waiver_notice_s = -1", "attention.waiver_notice_s -1"),
        ("age_cap = inf", "attention.age_cap inf"),
        ("age_doubles_after_s = 0", "attention.age_doubles_after_s"),
        ("[attention.severities]\nlow = -1", "attention.severities.low -1"),
        ('[[attention.kinds]]\nkind = "weather"\nweight = 1', "attention.kinds[0].kind 'weather'"),
        ('[[attention.kinds]]\nkind = "node-drift"\nweight = -1', "attention.kinds[0].weight"),
        ('[[attention.domains]]\ndomain = "NO"\nweight = 1', "attention.domains[0].domain 'NO'"),
        ('[[attention.domains]]\ndomain = "a"\nweight = nan', "attention.domains[0].weight nan"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named.replace("[", r"\[").replace("]", r"\]")):
        load(tmp_path, text)
