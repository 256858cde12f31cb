from __future__ import annotations

from pathlib import Path

import pytest

from nodeagent.errors import SettingsInvalid
from nodeagent.settings import (
    Settings,
    checked_controllers,
    checked_node,
    merged,
    node_settings,
    read_file,
)
from souverix.fleet.v1 import node_pb2


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.9.9.9:65535", "[::1]:7443", "localhost:7"])
def test_loopback_is_dialled(address: str) -> None:
    assert checked_controllers([address, address]) == (address,)


@pytest.mark.parametrize(
    "address", ["10.0.0.5:7443", "controller.example:7443", "[2001:db8::1]:1", "0.0.0.0:7"]
)
def test_without_tls_nothing_else_is(address: str) -> None:
    with pytest.raises(SettingsInvalid, match="give it a certificate"):
        checked_controllers([address])


@pytest.mark.parametrize("address", ["localhost", ":7443", "localhost:0", "localhost:x", "a:99999"])
def test_an_address_is_host_and_port(address: str) -> None:
    with pytest.raises(SettingsInvalid, match="not HOST:PORT"):
        checked_controllers([address])


@pytest.mark.parametrize("node", ["", "Edge", "-a", "a-", "a.b", "x" * 64])
def test_a_node_id_is_checked(node: str) -> None:
    with pytest.raises(SettingsInvalid, match="is no node id"):
        checked_node(node)


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(
        'node = "edge-7"\ncontrollers = ["127.0.0.1:1"]\nkind = "gateway"\ntags = ["a"]\n'
        'heartbeat_s = 2\n[labels]\nrack = "12"\n'
    )
    command_line: Settings = {"controllers": ["127.0.0.1:2"], "tags": [], "kind": None, "zone": "z"}
    settings = node_settings(merged(read_file(file), command_line), "edge-7")
    assert settings.controllers == ("127.0.0.1:2",)
    assert settings.heartbeat_s == 2.0
    assert settings.spec == node_pb2.NodeSpec(
        kind=node_pb2.NODE_KIND_GATEWAY, tags=["a"], labels={"rack": "12"}, zone="z"
    )


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("nodes = 1", "nodes is no setting"),
        ("tags = 1", "tags has a value of the wrong type"),
        ("heartbeat_s = true", "wrong type"),
        ("= 1", "is not TOML"),
    ],
)
def test_a_faulty_file_is_told_with_the_setting(tmp_path: Path, text: str, cause: str) -> None:
    file = tmp_path / "node.toml"
    file.write_text(text)
    with pytest.raises(SettingsInvalid, match=cause):
        read_file(file)


@pytest.mark.parametrize(
    "wrong",
    [
        {"controllers": []},
        {"heartbeat_s": 0},
        {"heartbeat_s": float("nan")},
        {"report_interval_s": 1e9},
        {"kind": "cloud"},
        {"tags": ["x" * 129]},
        {"tags": ["a\nb"]},
        {"tags": ["t"] * 65},
        {"labels": {"a": 1}},
    ],
    ids=str,
)
def test_wrong_values_are_refused(wrong: Settings) -> None:
    with pytest.raises(SettingsInvalid):
        node_settings({"controllers": ["localhost:1"], **wrong}, "edge-7")
