"""Reading a configuration file: what is not given has defaults, and a mistake is refused with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.config import ConfigError
from controller.config_file import load_config
from tests.unit.controller.written_config import ROOT, ZONE, loaded


def test_little_is_required_and_the_rest_has_defaults(tmp_path: Path) -> None:
    config = loaded(tmp_path, ROOT)
    assert config.controller.id == "global-control"
    assert config.controller.replica == "r1"
    assert config.controller.data_dir == Path("/var/lib/souverix")
    assert (config.log.kind, config.log.endpoints, config.log.lease_ttl_s) == ("etcd", (), 5.0)
    assert config.listen.address == "127.0.0.1:7400"
    assert (config.parent, config.sync, config.children) == (None, None, ())


def test_every_section_is_read(tmp_path: Path) -> None:
    config = loaded(tmp_path, ZONE)
    assert config.log.lease_ttl_s == 3.0
    assert config.parent is not None
    assert config.parent.addresses == ("127.0.0.1:7400", "localhost:7401")
    assert config.sync is not None
    assert (config.sync.mode, config.sync.frequency_s) == ("periodic", 60.0)
    [child] = config.children
    assert (child.domain, child.kind, child.level) == ("cell-1", "cluster", "local")
    assert child.autonomy.can_modify_policies
    assert child.autonomy.can_operate_isolated
    assert config.agents.enrolment == "open"


def test_example_of_each_authority_level_is_read() -> None:
    examples = sorted((Path(__file__).parents[3] / "deploy").glob("*.toml"))
    assert len(examples) >= 3
    for example in examples:
        assert load_config(example).controller.domain


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('domain = "edge-a1"', "", "controller: setting 'domain' is required"),
        ('replica = "r2"', "replicas = 2", "unknown setting 'replicas'"),
        ('replica = "r2"', "replica = 2", "replica: str is expected, not int"),
        ("[sync]", "[snyc]", "unknown setting 'snyc'"),
        ("lease_ttl_s = 3", "lease_ttl_s = true", "float is expected, not bool"),
        ("frequency_s = 60", "batch_size = true", "int is expected, not bool"),
        ("frequency_s = 60", "batch_size = 1.5", "int is expected, not float"),
        ('addresses = ["127.0.0.1:7400", ', "addresses = [1, ", "addresses[0]: str is expected"),
        ('addresses = ["127.0.0.1:7400", "localhost:7401"]', 'addresses = "x:1"', "a list"),
    ],
)
def test_mistake_is_refused_with_its_place(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert ZONE.count(old) == 1
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, ZONE.replace(old, new))
    assert says in str(refused.value)
    assert "controller.toml" in str(refused.value)


def test_file_that_is_missing_or_no_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="is not TOML"):
        loaded(tmp_path, "controller = [")
    with pytest.raises(ConfigError, match="a table is expected"):
        loaded(tmp_path, "controller = 1")
