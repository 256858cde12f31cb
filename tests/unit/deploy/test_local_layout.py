"""What the configurations of a federation on this machine say."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from controller.config import ControllerConfig
from controller.config_file import load_config
from deploy.local_layout import DomainPlan, LocalLayout

TOP, LINKED, ISLAND = "global", "edge-zone-a1", "island-b9"


def laid_out(directory: Path, **options: object) -> dict[str, ControllerConfig]:
    plans = [
        DomainPlan(TOP, log="sqlite"),
        DomainPlan(LINKED, TOP, log="sqlite"),
        DomainPlan(ISLAND, TOP, log="sqlite", air_gapped=True),
    ]
    layout = LocalLayout(directory, plans, **options)  # type: ignore[arg-type]
    layout.lay_out()
    found = {plan.domain: load_config(layout.config_path(plan.domain)) for plan in plans}
    for domain in (LINKED, ISLAND):
        parent = found[domain].parent
        assert parent is not None
        assert parent.public_key == layout.public_key(TOP)
    return found


def test_a_linked_domain_dials_its_parent_and_an_air_gapped_one_nobody(tmp_path: Path) -> None:
    configs = laid_out(tmp_path)
    linked, island = configs[LINKED].parent, configs[ISLAND].parent
    assert linked is not None
    assert island is not None
    assert linked.addresses == (configs[TOP].listen.address,)
    [address] = island.addresses
    assert address not in {config.listen.address for config in configs.values()}
    host, _, port = address.rpartition(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=5)


@pytest.mark.parametrize(("admins", "mode"), [((), "off"), (("user:global-admin",), "enforce")])
def test_a_secured_federation_that_names_administrators_enforces_roles(
    tmp_path: Path, admins: tuple[str, ...], mode: str
) -> None:
    for config in laid_out(tmp_path, secured=True, admins=admins).values():
        assert config.access.mode == mode
        assert tuple(config.access.admins) == admins
