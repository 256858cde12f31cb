from __future__ import annotations

from pathlib import Path

import pytest

from nodeagent.canonical_json import sha256_digest
from nodeagent.configuration import ConfigurationStore
from nodeagent.errors import StateUnavailable
from nodeagent.identity import Identity
from tests.unit.nodeagent.made_up import NODE, NOW_US, database


@pytest.fixture
def store(tmp_path: Path) -> ConfigurationStore:
    kept = database(tmp_path)
    Identity(kept, NODE)
    return ConfigurationStore(tmp_path / "config", kept, NODE)


def test_nothing_is_in_force_at_first(store: ConfigurationStore) -> None:
    assert store.in_force() is None


def test_the_last_applied_is_in_force_and_the_others_stay(
    store: ConfigurationStore, tmp_path: Path
) -> None:
    store.apply("night", {"a": 1.0}, NOW_US)
    applied = store.apply("day", {"b": "ü"}, NOW_US + 1)
    assert store.in_force() == applied
    assert applied.digest == sha256_digest('{"b":"ü"}'.encode())
    assert sorted(path.name for path in (tmp_path / "config").iterdir()) == [
        "day.json",
        "night.json",
    ]


def test_numbers_read_back_give_the_same_digest(store: ConfigurationStore) -> None:
    applied = store.apply("n", {"tiny": 1e-7, "large": 1e20, "one": 1.0}, NOW_US)
    in_force = store.in_force()
    assert in_force is not None
    assert in_force.digest == applied.digest


@pytest.mark.parametrize("damage", ["", "[]", "{"])
def test_a_damaged_file_is_told_with_the_next_step(
    store: ConfigurationStore, tmp_path: Path, damage: str
) -> None:
    store.apply("n", {"a": 1.0}, NOW_US)
    (tmp_path / "config/n.json").write_text(damage)
    with pytest.raises(StateUnavailable, match="apply it again"):
        store.in_force()
