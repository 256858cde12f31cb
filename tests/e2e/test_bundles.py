"""A zone that never has a link, with real processes: all it learns, and all that is learnt of it, goes by signed
files.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from tests.e2e.clients import Clients, wait_until
from tests.e2e.ctl import Ctl
from tests.e2e.link_proxy import LinkProxy
from trust.encryption_keys import read_encryption_key

TOP, ZONE, NODE = "global", "island", "pump-1"


@dataclass
class Running:
    """Both sides of the gap, and the stick that is carried over it."""

    federation: LocalFederation
    top: Ctl
    zone: Ctl
    stick: Path
    trips: int = 0

    def carried(self, source: Ctl, to: str, *options: str) -> list[Path]:
        """Files that `source` made for `to`, in a directory of their own."""
        self.trips += 1
        directory = self.stick / str(self.trips)
        source("bundle", "export", "--to", f"{to}-control", "--out", str(directory), *options)
        return sorted(directory.iterdir())

    def down(self, *options: str) -> list[Path]:
        return self.carried(self.top, ZONE, *options)

    def up(self, *options: str) -> list[Path]:
        return self.carried(self.zone, TOP, *options)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("islands")
    plans = [
        DomainPlan(TOP, kind="global", level="global", log="sqlite"),
        DomainPlan(ZONE, TOP, kind="air-gap-island", log="sqlite"),
    ]
    federation = LocalFederation(directory / "federation", plans)
    with LinkProxy(federation.address(TOP)) as link:
        link.cut()
        federation.parent_addresses[f"{ZONE}-control"] = [link.endpoint]
        key = directory / "bundle.pem"
        with federation:
            top, zone = Ctl(federation.server(TOP)), Ctl(federation.server(ZONE))
            top("bundle", "new-key", str(key))
            config = federation.config_path(ZONE)
            text = config.read_text()
            config.write_text(text.replace("[parent]", f'bundle_key = "{key}"\n[parent]'))
            federation.start_processes()
            federation.wait_for_master(TOP)
            federation.wait_for_master(ZONE)
            yield Running(federation, top, zone, directory / "stick")


@pytest.fixture(scope="module")
def known(running: Running) -> Running:
    """The zone has been told of its place by a first file, and the top of its node by one back."""
    running.zone("bundle", "import", *map(str, running.down()))
    running.federation.wait_for_authority(ZONE)
    running.federation.start_agent(ZONE, NODE)

    def reported() -> bool:
        twins = running.zone("get", "nodes", "-o", "json").json.get("nodes", [])
        return any(twin.get("inventory") for twin in twins)

    wait_until(reported, "the node at its zone")
    running.top("bundle", "import", *map(str, running.up()))
    return running


def test_a_zone_without_a_link_learns_its_place_by_a_file(known: Running) -> None:
    with Clients(known.federation.address(TOP)) as top:
        assert {d for d, _ in top.streams(ZONE)} >= {f"{ZONE}-control"}
    twins = known.top("get", "nodes", "--subtree", "-o", "json").json["nodes"]
    assert [twin["name"] for twin in twins] == [f"nodes/{NODE}"]
    assert twins[0]["inventory"]


def test_a_command_goes_out_and_its_result_returns_by_two_files(known: Running) -> None:
    issued = known.top("command", "ping", NODE, "--ttl", "10m", "-o", "json").json
    name = issued["command"]["id"]
    known.zone("bundle", "import", *map(str, known.down()))

    def succeeded(ctl: Ctl) -> bool:
        found = ctl("get", "command", name, "-o", "json").json["command"]
        return [d.get("state") for d in found.get("deliveries", [])] == ["DELIVERY_STATE_SUCCEEDED"]

    wait_until(lambda: succeeded(known.zone), "the command done at the zone")
    assert not succeeded(known.top)
    known.top("bundle", "import", *map(str, known.up()))
    assert succeeded(known.top)


def test_a_file_brought_twice_changes_nothing(known: Running) -> None:
    [path] = known.down("--full")
    first = known.zone("bundle", "import", str(path), "-o", "json").json
    again = known.zone("bundle", "import", str(path), "-o", "json").json
    assert first["outcome"] in ("IMPORT_OUTCOME_APPLIED", "IMPORT_OUTCOME_ALREADY_APPLIED")
    assert again["outcome"] == "IMPORT_OUTCOME_ALREADY_APPLIED"


def test_what_was_acknowledged_is_left_out_of_the_next_file(known: Running) -> None:
    known.top("bundle", "import", *map(str, known.up()))
    known.zone("bundle", "import", *map(str, known.down()))
    whole = known.top("bundle", "inspect", *map(str, known.down("--full")), "-o", "json").json
    rest = known.top("bundle", "inspect", *map(str, known.down()), "-o", "json").json

    def events(manifest: dict[str, list[dict[str, int]]]) -> int:
        return sum(segment.get("events", 0) for segment in manifest.get("segments", []))

    assert events(whole) > events(rest)


def test_a_file_for_another_controller_is_refused(known: Running) -> None:
    [path] = known.up()
    refused = known.zone("bundle", "import", str(path), code=4)
    assert "BUNDLE_WRONG_AUDIENCE" in refused.err


def test_a_turned_bit_is_refused_and_nothing_is_taken_in(known: Running, tmp_path: Path) -> None:
    [path] = known.down("--full")
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    damaged = tmp_path / "damaged.svxb"
    damaged.write_bytes(data)
    with Clients(known.federation.address(ZONE)) as zone:

        def brought() -> dict[tuple[str, str], tuple[int, str]]:
            held = {**zone.streams(ZONE), **zone.streams(TOP)}
            return {name: at for name, at in held.items() if name[0] == f"{TOP}-control"}

        before = brought()
        assert "BUNDLE_HASH_MISMATCH" in known.zone("bundle", "import", str(damaged), code=2).err
        assert brought() == before
    cut = tmp_path / "cut.svxb"
    cut.write_bytes(path.read_bytes()[:-100])
    assert "BUNDLE_TRUNCATED" in known.zone("bundle", "import", str(cut), code=2).err


def test_an_expired_file_is_refused(known: Running) -> None:
    [path] = known.down("--valid-for", "1ms")
    refused = known.zone("bundle", "import", str(path), code=4)
    assert "BUNDLE_EXPIRED" in refused.err


def test_an_encrypted_file_is_taken_in_by_its_audience_alone(
    known: Running, tmp_path: Path
) -> None:
    key = known.stick.parent / "bundle.pem"
    public = known.zone("bundle", "new-key", str(tmp_path / "other.pem")).out.strip()
    [foreign] = known.down("--full", "--encrypt-to", public)
    assert "BUNDLE_NOT_DECRYPTABLE" in known.zone("bundle", "import", str(foreign), code=2).err

    own = read_encryption_key(key.read_bytes()).public_key().public_bytes_raw().hex()
    [path] = known.down("--full", "--encrypt-to", own)
    taken = known.zone("bundle", "import", str(path), "-o", "json").json
    assert taken["outcome"] == "IMPORT_OUTCOME_ALREADY_APPLIED"


def test_files_are_verified_offline_with_the_exporters_key(known: Running) -> None:
    [path] = known.down("--full")
    config = known.federation.config_path(ZONE).read_text()
    key = config.split('public_key = "')[-1].split('"')[0]
    assert "good" in known.top("bundle", "verify", str(path), "--exporter-key", key).out
    wrong = known.top("bundle", "verify", str(path), "--exporter-key", "0" * 64, code=8)
    assert "BUNDLE_SIGNATURE_INVALID" in wrong.err
    shutil.rmtree(path.parent)


def test_exchanges_are_remembered_and_audited(known: Running) -> None:
    [peer] = known.top("bundle", "peers", "-o", "json").json["peers"]
    assert peer["controller"] == f"{ZONE}-control"
    assert peer["importTime"]
    assert peer["exportTime"]
    entries = known.top("audit", "list", "-o", "json").json["entries"]
    actions = {entry["record"]["action"].rpartition("/")[2] for entry in entries}
    assert {"ExportBundle", "ImportBundle"} <= actions


def test_a_refused_file_is_on_record(known: Running, tmp_path: Path) -> None:
    [path] = known.up()
    known.zone("bundle", "import", str(path), code=4)
    cut = tmp_path / "cut.svxb"
    [own] = known.down("--full")
    cut.write_bytes(own.read_bytes()[:-100])
    known.zone("bundle", "import", str(cut), code=2)

    def reasons() -> set[str]:
        entries = known.zone("audit", "list", "-o", "json").json["entries"]
        return {entry["record"].get("reason", "") for entry in entries}

    wait_until(
        lambda: {"BUNDLE_WRONG_AUDIENCE", "BUNDLE_TRUNCATED"} <= reasons(), "both in the audit log"
    )


def test_the_audit_log_is_exported_and_verified_without_a_server(
    known: Running, tmp_path: Path
) -> None:
    exported = tmp_path / "audit.svxb"
    known.top("audit", "export", "--out", str(exported))
    config = known.federation.config_path(TOP).read_text()
    root_key = config.split('root_public_key = "')[1].split('"')[0]
    nowhere = Ctl("")
    verified = ("audit", "verify", "--file", str(exported), "--root-key", root_key)
    report = nowhere(*verified, "-o", "json").json
    audited = {
        each["domain"]: each["provedSequence"]
        for each in report["streams"]
        if each["lane"] == "audit"
    }
    assert audited[TOP] > 0
    assert audited[ZONE] > 0, "what came up by files"
    assert {each["standing"] for each in report["streams"]} == {"PROVED"}
    assert f"made by {TOP}-control" in nowhere(*verified).out

    assert "BUNDLE_ROOT_UNKNOWN" in nowhere(*verified[:-1], "ab" * 32, code=8).err
    damaged = tmp_path / "damaged.svxb"
    data = bytearray(exported.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    refused = nowhere("audit", "verify", "--file", str(damaged), "--root-key", root_key, code=8)
    assert "BUNDLE_HASH_MISMATCH" in refused.err
    assert "is there already" in known.top("audit", "export", "--out", str(exported), code=2).err
    taken = known.zone("bundle", "import", str(exported), code=4)
    assert "BUNDLE_WRONG_AUDIENCE" in taken.err
