from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from controller.config import ConfigError, ControllerConfig, is_loopback, load_config

KEY = "ab" * 32

ROOT = f"""
[controller]
id = "global-control"
domain = "global"
data_dir = "/var/lib/souverix"

[trust]
signing_key = "/etc/souverix/key.pem"
root_public_key = "{KEY}"
genesis = "genesis.pb"
"""

ZONE = f"""
[controller]
id = "edge-a1-control"
domain = "edge-a1"
data_dir = "data"
replica = "r2"

[listen]
address = "127.0.0.1:7500"

[log]
kind = "sqlite"
lease_ttl_s = 3

[trust]
signing_key = "key.pem"
root_public_key = "{KEY}"

[parent]
controller = "region-a-control"
addresses = ["127.0.0.1:7400", "localhost:7401"]

[sync]
mode = "periodic"
frequency_s = 60

[[children]]
controller = "cell-1-control"
domain = "cell-1"
public_key = "{KEY}"
kind = "cluster"

[children.autonomy]
can_modify_policies = true

[agents]
enrolment = "open"
"""

Load = Callable[[str], ControllerConfig]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def loaded(text: str) -> ControllerConfig:
        path = tmp_path / "controller.toml"
        path.write_text(text)
        return load_config(path)

    return loaded


def test_little_is_required_and_the_rest_has_defaults(load: Load) -> None:
    config = load(ROOT)
    assert config.controller.id == "global-control"
    assert config.controller.replica == "r1"
    assert config.controller.data_dir == Path("/var/lib/souverix")
    assert (config.log.kind, config.log.endpoints, config.log.lease_ttl_s) == ("etcd", (), 5.0)
    assert config.listen.address == "127.0.0.1:7400"
    assert (config.parent, config.sync, config.children) == (None, None, ())


def test_every_section_is_read(load: Load) -> None:
    config = load(ZONE)
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


def test_example_of_each_authority_level_is_read(load: Load) -> None:
    examples = sorted((Path(__file__).parents[3] / "deploy").glob("*.toml"))
    assert len(examples) >= 3
    for example in examples:
        assert load_config(example).controller.domain


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('id = "edge-a1-control"', 'id = "Edge A1"', "controller.id 'Edge A1' is no id"),
        ('domain = "edge-a1"', "", "controller: setting 'domain' is required"),
        ('replica = "r2"', "replicas = 2", "unknown setting 'replicas'"),
        ('replica = "r2"', "replica = 2", "replica: str is expected, not int"),
        ("[sync]", "[snyc]", "unknown setting 'snyc'"),
        ('kind = "sqlite"', 'kind = "oracle"', "log.kind 'oracle' is not one of etcd, sqlite"),
        ('mode = "periodic"', 'mode = "daily"', "sync.mode 'daily' is not one of"),
        ('kind = "cluster"', 'kind = "moon"', "children[0].kind 'moon' is not one of"),
        ('enrolment = "open"', 'enrolment = "all"', "agents.enrolment 'all' is not one of"),
        ("lease_ttl_s = 3", "lease_ttl_s = 0", "log.lease_ttl_s 0.0 is out of range"),
        ("lease_ttl_s = 3", "lease_ttl_s = inf", "log.lease_ttl_s inf is out of range"),
        ("lease_ttl_s = 3", "lease_ttl_s = nan", "log.lease_ttl_s nan is out of range"),
        ("lease_ttl_s = 3", "lease_ttl_s = true", "float is expected, not bool"),
        ("frequency_s = 60", "frequency_s = -1", "sync.frequency_s -1.0 is out of range"),
        ("frequency_s = 60", "batch_size = true", "int is expected, not bool"),
        ("frequency_s = 60", "batch_size = 1.5", "int is expected, not float"),
        ('root_public_key = "', 'root_public_key = "zz', "must be 64 hexadecimal digits"),
        ('\npublic_key = "ab', '\npublic_key = "', "children[0].public_key must be 64"),
        ('addresses = ["127.0.0.1:7400", ', "addresses = [1, ", "addresses[0]: str is expected"),
        ('addresses = ["127.0.0.1:7400", "localhost:7401"]', "addresses = []", "no address"),
        ('addresses = ["127.0.0.1:7400", "localhost:7401"]', 'addresses = "x:1"', "a list"),
        ('controller = "region-a-control"', 'controller = "/"', "parent.controller '/' is no id"),
        ('domain = "cell-1"', 'domain = "edge-a1"', "is that of controller.domain already"),
        ('"cell-1-control"', '"edge-a1-control"', "is that of controller.id already"),
        ("127.0.0.1:7500", "127.0.0.1", "is not HOST:PORT"),
        ("127.0.0.1:7500", "127.0.0.1:65536", "is not HOST:PORT"),
        ("127.0.0.1:7500", "127.0.0.1:²", "is not HOST:PORT"),
        (
            "127.0.0.1:7500",
            "0.0.0.0:7500",
            "without TLS a controller binds and dials loopback only",
        ),
        ("localhost:7401", "region-a.example:7401", "is not a loopback address"),
    ],
)
def test_mistake_is_refused_with_its_place(load: Load, old: str, new: str, says: str) -> None:
    assert ZONE.count(old) == 1
    with pytest.raises(ConfigError) as refused:
        load(ZONE.replace(old, new))
    assert says in str(refused.value)
    assert "controller.toml" in str(refused.value)


def test_two_children_cannot_have_one_domain(load: Load) -> None:
    again = f'\n[[children]]\ncontroller = "other"\ndomain = "cell-1"\npublic_key = "{KEY}"\n'
    with pytest.raises(
        ConfigError, match=r"children\[1\].domain 'cell-1' is that of children\[0\]"
    ):
        load(ZONE + again)


def test_childs_own_sync_settings_are_checked_too(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"children\[0\].sync.mode"):
        load(ZONE.replace("[agents]", '[children.sync]\nmode = "x"\n\n[agents]'))


def test_only_the_root_has_a_genesis_and_only_the_others_a_parent(load: Load) -> None:
    with pytest.raises(ConfigError, match="genesis"):
        load(ROOT.replace('genesis = "genesis.pb"', ""))
    with pytest.raises(ConfigError, match="genesis"):
        load(ROOT + '\n[parent]\ncontroller = "x"\naddresses = ["127.0.0.1:1"]\n')


def test_file_that_is_missing_or_no_toml_is_refused(load: Load, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="is not TOML"):
        load("controller = [")
    with pytest.raises(ConfigError, match="a table is expected"):
        load("controller = 1")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "localhost:1"])
def test_loopback_addresses(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1", ":1"])
def test_addresses_of_other_machines(address: str) -> None:
    assert not is_loopback(address)


def test_thresholds_of_connectivity_are_set_for_all_and_for_a_domain(load: Load) -> None:
    text = """
[connectivity]
autonomous_after_s = 3
[[connectivity.domains]]
domain = "moon"
delayed_rtt_s = 4.5
"""
    section = load(ROOT + text).connectivity
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
    load: Load, text: str, cause: str
) -> None:
    with pytest.raises(ConfigError, match=cause):
        load(f"{ROOT}\n{text}\n")


def test_who_moves_nodes_on_is_told_for_all_and_by_domain(load: Load) -> None:
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
    section = load(text).lifecycle
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
def test_a_wrong_lifecycle_section_is_refused(load: Load, lines: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(ZONE + "\n[lifecycle]\n" + lines)
    assert says in str(refused.value)
