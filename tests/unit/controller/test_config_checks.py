"""What a configuration may not say is refused with the place of the setting."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from controller.config import (
    AccessSection,
    ConfigError,
    ControllerConfig,
    ControllerSection,
    TlsSection,
    TrustSection,
)
from controller.config_checks import is_loopback
from tests.unit.controller.written_config import KEY, ROOT, ZONE, loaded


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('id = "edge-a1-control"', 'id = "Edge A1"', "controller.id 'Edge A1' is no id"),
        ('kind = "sqlite"', 'kind = "oracle"', "log.kind 'oracle' is not one of etcd, sqlite"),
        ('mode = "periodic"', 'mode = "daily"', "sync.mode 'daily' is not one of"),
        ('kind = "cluster"', 'kind = "moon"', "children[0].kind 'moon' is not one of"),
        ('enrolment = "open"', 'enrolment = "all"', "agents.enrolment 'all' is not one of"),
        ("lease_ttl_s = 3", "lease_ttl_s = 0", "log.lease_ttl_s 0.0 is out of range"),
        ("lease_ttl_s = 3", "lease_ttl_s = inf", "log.lease_ttl_s inf is out of range"),
        ("lease_ttl_s = 3", "lease_ttl_s = nan", "log.lease_ttl_s nan is out of range"),
        ("frequency_s = 60", "frequency_s = -1", "sync.frequency_s -1.0 is out of range"),
        ('root_public_key = "', 'root_public_key = "zz', "must be 64 hexadecimal digits"),
        ('\npublic_key = "ab', '\npublic_key = "', "children[0].public_key must be 64"),
        ('addresses = ["127.0.0.1:7400", "localhost:7401"]', "addresses = []", "no address"),
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
def test_value_that_cannot_be_is_refused_with_its_place(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    assert ZONE.count(old) == 1
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, ZONE.replace(old, new))
    assert says in str(refused.value)
    assert "controller.toml" in str(refused.value)


def test_two_children_cannot_have_one_domain(tmp_path: Path) -> None:
    again = f'\n[[children]]\ncontroller = "other"\ndomain = "cell-1"\npublic_key = "{KEY}"\n'
    with pytest.raises(
        ConfigError, match=r"children\[1\].domain 'cell-1' is that of children\[0\]"
    ):
        loaded(tmp_path, ZONE + again)


def test_childs_own_sync_settings_are_checked_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"children\[0\].sync.mode"):
        loaded(tmp_path, ZONE.replace("[agents]", '[children.sync]\nmode = "x"\n\n[agents]'))


def test_only_the_root_has_a_genesis_and_only_the_others_a_parent(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="genesis"):
        loaded(tmp_path, ROOT.replace('genesis = "genesis.pb"', ""))
    with pytest.raises(ConfigError, match="genesis"):
        loaded(tmp_path, ROOT + '\n[parent]\ncontroller = "x"\naddresses = ["127.0.0.1:1"]\n')


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "localhost:1"])
def test_loopback_addresses(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1", ":1"])
def test_addresses_of_other_machines(address: str) -> None:
    assert not is_loopback(address)


@pytest.mark.parametrize(
    ("mode", "tls", "enforced"),
    [
        ("", None, False),
        ("", TlsSection(directory="tls"), True),
        ("off", TlsSection(directory="tls"), False),
        ("enforce", None, True),
    ],
)
def test_roles_are_enforced_by_tls_unless_it_is_said_otherwise(
    mode: str, tls: TlsSection | None, enforced: bool
) -> None:
    config = ControllerConfig(
        ControllerSection("c", "d", Path("data")),
        TrustSection(Path("key.pem"), "00"),
        tls=tls,
        access=AccessSection(mode),
    )
    assert config.access_enforced is enforced


@pytest.mark.parametrize(
    ("authority", "says"),
    [
        ('directory = "ca"', "add [tls]"),
        ('directory = "ca"\nrecovery_days = 0.0', "authority.recovery_days 0.0 is out of range"),
        ('directory = "ca"\nmachine_life_h = 9601.0', "authority.machine_life_h 9601.0 is out of"),
        ("machine_life_h = 12", "authority.directory is required"),
    ],
)
def test_an_authority_needs_files_bounds_and_tls(tmp_path: Path, authority: str, says: str) -> None:
    tls = "" if "[tls]" in says else '[tls]\ndirectory = "tls"\n'
    with pytest.raises(ConfigError, match=r"authority|tls") as refused:
        loaded(tmp_path, f"{ZONE}\n{tls}[authority]\n{authority}\n")
    assert says in str(refused.value)


def test_an_enrolment_listener_is_of_use_with_an_authority_only(tmp_path: Path) -> None:
    listening = ZONE.replace("[listen]", '[listen]\nenrolment_address = "127.0.0.1:7501"')
    with pytest.raises(ConfigError, match="of use with"):
        loaded(tmp_path, listening)
    whole = f'{listening}\n[tls]\ndirectory = "tls"\n[authority]\ndirectory = "ca"\n'
    assert loaded(tmp_path, whole).listen.enrolment_address == "127.0.0.1:7501"


PEOPLE = """
[tls]
directory = "tls"
[access.oidc]
name = "corp"
issuer = "https://login.example.net"
audience = "souverix"
jwks = "jwks.json"
"""


def with_people(old: str = "", new: str = "") -> str:
    """The zone's configuration with a listener for people, and one thing changed."""
    text = ZONE.replace("[listen]", '[listen]\npeople_address = "127.0.0.1:7443"') + PEOPLE
    assert not old or text.count(old) == 1
    return text.replace(old, new)


def test_people_by_token_are_configured_with_defaults(tmp_path: Path) -> None:
    oidc = loaded(tmp_path, with_people()).access.oidc
    assert oidc is not None
    assert (oidc.name_claim, oidc.groups_claim) == ("sub", "groups")
    assert oidc.rules.max_life == timedelta(hours=12)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('people_address = "127.0.0.1:7443"', "", "come together"),
        (PEOPLE, '[tls]\ndirectory = "tls"\n', "come together"),
        ('[tls]\ndirectory = "tls"\n', "", "needs [tls]"),
        ("127.0.0.1:7443", "127.0.0.1:7500", "that of listen.address already"),
        ("127.0.0.1:7443", "people", "listen.people_address 'people' is not HOST:PORT"),
        ('"corp"', '"Corp@evil"', "access.oidc.name 'Corp@evil' is no id"),
        ('"souverix"', '""', "access.oidc.audience is empty"),
        ("jwks =", "clock_skew_s = 301\njwks =", "access.oidc.clock_skew_s 301.0 is out of range"),
        ("jwks =", "clock_skew_s = nan\njwks =", "access.oidc.clock_skew_s nan is out of range"),
        ("jwks =", "max_life_s = 1e9\njwks =", "access.oidc.max_life_s 1000000000.0 is out of"),
        ("jwks =", "algorithms = []\njwks =", "unknown setting 'algorithms'"),
    ],
)
def test_people_by_token_are_configured_whole_or_not_at_all(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, with_people(old, new))
    assert says in str(refused.value)
