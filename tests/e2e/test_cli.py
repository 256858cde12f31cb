"""The real `souverixctl` against real controllers: every verb does what docs/cli.md says, prints what people and
programs can read, and ends with the documented exit code.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from tests.e2e.clients import wait_until
from tests.e2e.ctl import Ctl
from tests.e2e.link_proxy import LinkProxy

ZONE = "edge-zone-a1"
OTHER_ZONE = "edge-zone-a2"
NODE = "host-1"


@dataclass
class Running:
    """The federation of this module, and the link between the zone and its region."""

    federation: LocalFederation
    link: LinkProxy


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    plans = [
        DomainPlan("global", kind="global", level="global", log="sqlite"),
        DomainPlan("region-a", "global", kind="region", level="regional", log="sqlite"),
        DomainPlan(ZONE, "region-a", log="sqlite"),
        DomainPlan(OTHER_ZONE, "region-a", log="sqlite"),
    ]
    federation = LocalFederation(tmp_path_factory.mktemp("federation"), plans)
    with LinkProxy(federation.address("region-a")) as link:
        federation.parent_addresses[f"{ZONE}-control"] = [link.endpoint]
        with federation:
            federation.start_all()
            federation.start_agent(ZONE, NODE)
            yield Running(federation, link)


@pytest.fixture(scope="module")
def top(running: Running) -> Ctl:
    ctl = Ctl(running.federation.server("global"))

    def is_known() -> bool:
        twins = ctl("get", "nodes", "--subtree", "-o", "json").json.get("nodes", [])
        return any(twin.get("inventory") for twin in twins)

    wait_until(is_known, "the host's inventory at the top")
    return ctl


@pytest.fixture(scope="module")
def region(running: Running) -> Ctl:
    return Ctl(running.federation.server("region-a"))


@pytest.fixture(scope="module")
def zone(running: Running) -> Ctl:
    return Ctl(running.federation.server(ZONE))


def _seen(ctl: Ctl, *arguments: str, text: str) -> None:
    """Waits until a verb succeeds and prints a text: what was written elsewhere arrives."""

    def has_text() -> bool:
        finished = subprocess.run(
            ctl._command(*arguments), env=ctl._environment(), capture_output=True, text=True
        )
        return finished.returncode == 0 and text in finished.stdout

    wait_until(has_text, f"{text!r} in {' '.join(arguments)} at {ctl.server}")


def test_a_node_is_created_described_changed_moved_and_deleted_from_the_top(
    top: Ctl, zone: Ctl
) -> None:
    made = top(
        "create", "node", "gw-1", "--domain", ZONE, "--kind", "gateway", "--tag", "lab",
        "--wait-durable", "global",
    )  # fmt: skip
    assert "node gw-1 created in edge-zone-a1" in made.out
    assert "by edge-zone-a1-control" in made.out
    listed = top("get", "nodes", "--domain", ZONE, "--tag", "lab").out.splitlines()
    assert [line.split()[0] for line in listed] == ["ID", "gw-1"]
    desired = top(
        "set", "desired-state", "gw-1", "--version", "2.1.0", "--config", "log.level=debug"
    )
    assert "gw-1" in desired.out
    top("set", "node", "gw-1", "--display-name", "Gateway One")
    _seen(top, "describe", "node", "gw-1", text="Gateway One")
    described = top("describe", "node", "gw-1").out
    assert "target version: 2.1.0" in described
    assert "master of record: edge-zone-a1-control" in described
    moved = top("move", "node", "gw-1", "--to", OTHER_ZONE, "--reason", "rewired")
    assert OTHER_ZONE in moved.out
    _seen(top, "get", "node", "gw-1", text=OTHER_ZONE)
    assert "2.1.0" in top("get", "node", "gw-1").out
    _seen(top, "delete", "node", "gw-1", text="deleted")
    wait_until(lambda: _is_gone(zone, "gw-1"), "the deletion at the zone")


def _is_gone(ctl: Ctl, node: str) -> bool:
    nodes = ctl("get", "nodes", "-o", "json").json.get("nodes", [])
    return node not in [twin["id"] for twin in nodes]


def test_domains_are_created_changed_and_deleted(top: Ctl, region: Ctl) -> None:
    region("create", "domain", "cluster-1", "--parent", "region-a", "--kind", "cluster")
    assert "CLUSTER" in region("get", "domain", "cluster-1").out
    region("set", "domain", "cluster-1", "--display-name", "First cluster", "--tag", "lab")
    assert "First cluster" in region("describe", "domain", "cluster-1").out
    _seen(top, "get", "domains", text="cluster-1")
    ids = [line.split()[0] for line in top("get", "domains").out.splitlines()[1:]]
    assert ids.index("global") < ids.index("region-a") < ids.index("cluster-1")
    region("delete", "domain", "cluster-1")
    region("get", "domain", "cluster-1", code=3)


def test_a_policy_round_trips_through_a_file_and_its_etag_counts(zone: Ctl, tmp_path: Path) -> None:
    zone("create", "policy", f"{ZONE}/base", "--target-version", "2.1.0", "--config", "stir=on")
    printed = zone("get", "policy", f"{ZONE}/base", "-o", "yaml").out
    assert yaml.safe_load(printed)["policy"]["spec"]["targetVersion"] == "2.1.0"
    file = tmp_path / "base.yaml"
    file.write_text(printed.replace("2.1.0", "2.1.1"))
    zone("set", "policy", f"{ZONE}/base", "-f", str(file))
    assert "2.1.1" in zone("get", "policies").out
    late = zone("set", "policy", f"{ZONE}/base", "-f", str(file), code=4)
    assert "ETAG_MISMATCH" in late.err
    assert "next step" in late.err
    assert "2.1.1" in zone("describe", "policy", f"{ZONE}/base").out
    zone("set", "policy", f"{ZONE}/base", "--enforced", "--version", "policy-v2")
    zone("delete", "policy", f"{ZONE}/base")
    zone("get", "policy", f"{ZONE}/base", code=3)


def test_commands_reach_the_node_and_their_answers_are_shown(top: Ctl) -> None:
    pinged = top("command", "ping", NODE, "--payload", "hello", "--wait")
    assert "SUCCEEDED" in pinged.out
    assert "payload=hello" in pinged.out
    top("command", "refresh-inventory", "--domain", "region-a", "--subtree", "--wait")
    applied = top(
        "command", "apply-config", NODE, "--config", "log.level=debug", "--at-most-once", "--wait",
        "-o", "json",
    )  # fmt: skip
    delivery = applied.json["command"]["deliveries"][0]
    assert delivery["state"] == "DELIVERY_STATE_SUCCEEDED"
    assert delivery["output"]["config_hash"].startswith("sha256:")
    listed = top("get", "commands").out
    assert "apply-config" in listed
    assert "AT_MOST_ONCE" in listed


def test_a_command_to_an_absent_node_is_cancelled_and_watched_to_its_end(top: Ctl) -> None:
    top("create", "node", "absent-1", "--domain", ZONE)
    issued = top("command", "ping", "absent-1", "-o", "json").json["command"]
    assert "1/1" not in top("get", "commands", "--open").out
    waited = top(
        "command", "ping", "absent-1", "--wait", "--wait-timeout", "300ms", code=7
    )  # fmt: skip
    assert "it goes on" in waited.err
    assert "cancel" in top("command", "cancel", issued["id"], "--reason", "not needed").out
    ended = top("watch", "command", issued["id"], code=1)
    assert "CANCELLED" in ended.out
    shown = top("get", "command", issued["id"]).out
    assert "CANCELLED" in shown
    assert "cancel requested" in shown
    assert "not needed" in shown
    described = top("describe", "command", issued["id"]).out
    assert "cancel requested: yes" in described
    assert "cancel reason: not needed" in described
    told = top("get", "command", issued["id"], "-o", "json").json["command"]
    assert told["cancelReason"] == "not needed"
    assert told["cancelPrincipal"] == told["principal"]
    assert told["cancelTime"]


def test_watches_show_what_is_there_and_then_each_change(zone: Ctl) -> None:
    watches = {
        "nodes": zone.start("watch", "nodes", "-o", "json"),
        "policies": zone.start("watch", "policies", "-o", "json"),
        "audit": zone.start("audit", "watch"),
    }
    try:
        first = watches["nodes"].stdout
        assert first is not None
        assert "existing" in json.loads(first.readline())
        zone("create", "node", "watched-1")
        zone("create", "policy", f"{ZONE}/watched-1", "--version", "v1")
        for process in watches.values():
            assert process.stdout is not None
            assert any("watched-1" in line for line in process.stdout)
    finally:
        for process in watches.values():
            process.terminate()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def test_observations_and_large_values_of_a_node_are_shown_at_the_top(
    top: Ctl, tmp_path: Path
) -> None:
    observed = top("get", "observations", NODE).out
    assert "inventory" in observed
    file = tmp_path / "packages.json"
    top("values", "download", NODE, "--name", "packages", "--to", str(file))
    document = json.loads(file.read_text())
    assert {"debian", "python"} <= document.keys()
    digest = top("get", "node", NODE, "-o", "json").json["node"]["inventory"]["largeValues"][0]
    assert top("values", "download", digest["digest"]).json == document
    top("values", "download", "sha256:" + "0" * 64, code=3)


def test_the_federation_is_shown_as_a_tree_and_in_numbers(top: Ctl, zone: Ctl) -> None:
    status = top("federation", "status").out
    assert "global-control" in status
    assert f"└── {OTHER_ZONE}" in status or f"└── {ZONE}" in status
    document = top("federation", "status", "-o", "json").json
    assert set(document) == {"status", "topology", "peers"}
    assert "term 1.1.1" in top("federation", "topology").out
    assert "region-a-control" in zone("federation", "peers").out
    streams = zone("federation", "streams").out
    assert "telemetry" in streams
    assert "level" in zone("federation", "sync-now").out
    assert "no parent" in top("federation", "sync-now", code=4).err


def test_the_audit_log_tells_who_was_refused_and_verifies(top: Ctl, zone: Ctl) -> None:
    zone("create", "policy", f"{ZONE}/audited", "--version", "v1")
    top("set", "policy", f"{ZONE}/audited", "--version", "v2", "--etag", "stale", code=4)
    denied = zone("audit", "list", "--by", "user:operator", "--outcome", "rejected").out
    assert "ETAG_MISMATCH" in denied
    assert "controller:region-a-control" in denied
    verified = zone("audit", "verify", "--all-lanes")
    assert "0 faulty" in verified.out
    steps = top("audit", "verify", "-o", "json").json
    assert all(stream["intact"] for stream in steps["streams"])


def test_exit_codes_say_what_went_wrong(top: Ctl, zone: Ctl) -> None:
    top("get", "nodes", "--no-such-option", code=2)
    top("get", "node", "no-such-node", code=3)
    zone("create", "node", "twice-1")
    zone("create", "node", "twice-1", code=4)
    assert "DOMAIN_OUT_OF_REACH" in zone("create", "policy", "region-a/p", code=5).err
    assert "next step" in Ctl("127.0.0.1:1")("get", "nodes", code=6).err
    zone("create", "node", "Not An Id", code=2)
    remote = Ctl("192.0.2.1:7400")("get", "nodes", code=2)
    assert "not on this host" in remote.err


def test_a_conflict_made_while_cut_off_is_listed_shown_and_restored(
    running: Running, region: Ctl, zone: Ctl
) -> None:
    policy = f"{ZONE}/contended"
    zone("create", "policy", policy, "--version", "v0")
    _seen(region, "get", "policies", "--subtree", text="contended")
    running.link.cut()
    _seen(region, "federation", "peers", text="DISCONNECTED")
    zone("set", "policy", policy, "--version", "by-the-zone")
    optimistic = region("set", "policy", policy, "--version", "by-the-region")
    assert "optimistic" in optimistic.err
    running.link.heal()
    _seen(zone, "conflicts", "list", "--open", text=policy.split("/")[1])
    conflict = zone("conflicts", "list", "--open", "-o", "json").json["conflicts"][0]
    id = conflict["name"].removeprefix("conflicts/")
    shown = zone("conflicts", "show", id).out
    assert "edge-zone-a1-control" in shown
    assert "region-a-control" in shown
    assert "by-the-zone" in zone("describe", "conflict", id).out
    siblings = conflict["record"]["siblings"]
    loser = next(each for each in siblings if not each.get("winner"))
    zone("conflicts", "restore", id, "--controller", loser["controller"])
    assert zone("conflicts", "list", "--open", "-o", "json").json == {}
    restored = "by-the-region" if loser["controller"] == "region-a-control" else "by-the-zone"
    assert restored in zone("get", "policy", policy).out


def test_authority_is_transferred_and_shown(top: Ctl, region: Ctl) -> None:
    assert "edge-zone-a2-control" in top("authority", "get", OTHER_ZONE).out
    refused = region("authority", "transfer", OTHER_ZONE, "--to", "nobody-control", code=3)
    assert "nobody-control" in refused.err
    region("authority", "transfer", OTHER_ZONE, "--to", "region-a-control", "--force", code=2)
    moved = region(
        "authority", "transfer", OTHER_ZONE, "--to", "region-a-control", "--reason", "repairs",
        "--wait", "20s",
    )  # fmt: skip
    assert "region-a-control" in moved.out
    assert "1.1.2" in region("authority", "get", OTHER_ZONE).out
    assert "repairs" in region("describe", "authority", OTHER_ZONE).out
    _seen(top, "authority", "get", OTHER_ZONE, text="1.1.2")


def test_completion_scripts_and_the_version_are_printed(top: Ctl) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "souverixctl" in top("completion", shell).out
    assert top("version").out.strip()
