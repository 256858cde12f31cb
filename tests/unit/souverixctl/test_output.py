"""Output formats: tables for people, JSON and YAML for programs, nothing that acts on a terminal."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from google.protobuf.timestamp_pb2 import Timestamp

from souverix.fleet.v1 import (
    connectivity_pb2,
    domain_pb2,
    fleet_service_pb2,
    node_pb2,
    return_pb2,
)
from souverixctl.describe import describe
from souverixctl.errors import ExitCode
from tests.unit.souverixctl.conftest import Serve
from tests.unit.souverixctl.scripted import ScriptedController, ctl


def ago(**units: float) -> Timestamp:
    time = Timestamp()
    time.FromDatetime(datetime.now(UTC) - timedelta(**units))
    return time


def node(id: str, **facts: object) -> node_pb2.Node:
    live = connectivity_pb2.LinkState(mode=connectivity_pb2.CONNECTIVITY_MODE_LIVE)
    return node_pb2.Node(
        name=f"nodes/{id}",
        id=id,
        domain="edge-zone-a1",
        etag="e1",
        connectivity=connectivity_pb2.Connectivity(link=live),
        **facts,  # type: ignore[arg-type]
    )


@pytest.fixture
async def address(serve: Serve, controller: ScriptedController) -> str:
    nodes = [
        node("n1", as_of_time=ago(hours=17, minutes=5)),
        node("n2", optimistic=True, conflicted_aspects=["desired_state"]),
        node("n\x1b[31m\x9b3"),
    ]
    controller.on(
        fleet_service_pb2.ListNodesRequest,
        fleet_service_pb2.ListNodesResponse(nodes=nodes, as_of_time=ago(minutes=3, seconds=5)),
    )
    return await serve(controller)


async def test_a_table_shows_ages_marks_and_freshness(address: str) -> None:
    ran = await ctl("get", "nodes", "--server", address)
    assert ran.exit_code == ExitCode.OK
    header, first, second, _ = ran.out.splitlines()
    assert header.split()[:3] == ["ID", "DOMAIN", "KIND"]
    assert "LIVE" in first
    assert "17h" in first
    assert "optimistic conflict: desired_state" in second
    assert "as of 3m ago" in ran.err


async def test_piped_output_has_no_colours_and_no_trailing_spaces(address: str) -> None:
    ran = await ctl("get", "nodes", "--server", address)
    assert "\x1b" not in ran.out + ran.err
    assert all(line == line.rstrip() for line in ran.out.splitlines())


async def test_json_is_protobufs_json_of_the_reply(address: str) -> None:
    ran = await ctl("get", "nodes", "--server", address, "-o", "json")
    reply = json.loads(ran.out)
    assert set(reply) == {"nodes", "asOfTime"}
    assert reply["nodes"][1]["conflictedAspects"] == ["desired_state"]
    assert reply["nodes"][0]["connectivity"]["link"]["mode"] == "CONNECTIVITY_MODE_LIVE"
    assert reply["nodes"][2]["id"] == "n\x1b[31m\x9b3"


async def test_yaml_holds_the_same_as_json(address: str) -> None:
    as_json = await ctl("-o", "json", "get", "nodes", "--server", address)
    as_yaml = await ctl("-o", "yaml", "get", "nodes", "--server", address)
    assert yaml.safe_load(as_yaml.out) == json.loads(as_json.out)


@pytest.mark.parametrize("format", ["table", "json", "yaml"])
async def test_text_from_the_fleet_cannot_act_on_a_terminal(address: str, format: str) -> None:
    ran = await ctl("get", "nodes", "--server", address, "-o", format)
    assert "n\\x1b[31m" in ran.out or "n\\u001b[31m" in ran.out or "n\\e[31m" in ran.out
    assert not {"\x1b", "\x9b"} & set(ran.out)


def on_terminal(*arguments: str, **environment: str) -> bytes:
    """Standard output of a real run whose stdout is a terminal."""
    leader, follower = pty.openpty()
    with os.fdopen(leader, "rb", buffering=0) as terminal:
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "souverixctl.main", *arguments],
                stdout=follower,
                stderr=subprocess.PIPE,
                env={**os.environ, "TERM": "xterm-256color", **environment},
            )
        finally:
            os.close(follower)
        with process:
            process.communicate(timeout=60)
        seen = b""
        while True:
            try:
                seen += terminal.read(65536)
            except OSError:  # how a pty says that its other side is closed
                return seen


@pytest.mark.parametrize(
    ("arguments", "environment", "coloured"),
    [
        ((), {}, True),
        (("--no-color",), {}, False),
        ((), {"NO_COLOR": "1"}, False),
        ((), {"TERM": "dumb"}, False),
    ],
)
async def test_colours_are_for_terminals_that_want_them(
    address: str, arguments: tuple[str, ...], environment: dict[str, str], coloured: bool
) -> None:
    seen = await asyncio.to_thread(
        on_terminal, "get", "nodes", "--server", address, *arguments, **environment
    )
    assert b"n1" in seen
    assert (b"\x1b[" in seen) is coloured


async def test_forced_colours_do_not_reach_a_pipe(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    ran = await ctl("get", "nodes", "--server", address)
    assert "\x1b" not in ran.out


def test_a_description_shows_age_and_exact_time_and_short_words() -> None:
    now = datetime(2026, 2, 27, 12, 0, 0, tzinfo=UTC)
    twin = node("n1", as_of_time=Timestamp(seconds=int(now.timestamp()) - 61200))
    twin.spec.labels["rack"] = "7"
    twin.spec.tags.extend(["lab", "edge"])
    twin.authority.term.extend([1, 3])
    twin.desired_state.configuration.update({"stir": {"mode": "enforce", "levels": [3, 0.5]}})
    lines = list(describe(twin, now))
    assert "as of time: 17h ago (2026-02-26T19:00:00Z)" in lines
    assert "    mode: LIVE" in lines
    assert "  tags: lab, edge" in lines
    assert "    rack: 7" in lines
    assert "  term: 1.3" in lines
    assert "      mode: enforce" in lines
    assert "      - 3" in lines
    assert "      - 0.5" in lines


def test_a_description_shows_what_remains_of_a_refused_backlog() -> None:
    twin = node("n1")
    twin.return_incident.CopyFrom(
        return_pb2.ReturnIncident(
            kind=return_pb2.INCIDENT_KIND_BACKLOG_REFUSED,
            reason="CHAIN_BROKEN",
            relay="relay-1",
            backlog=return_pb2.BacklogEvidence(
                run="r1", chunk=3, chunk_digest=b"\xaa" * 32, chain_claimed=b"\xbb" * 32
            ),
        )
    )
    lines = [line.strip() for line in describe(twin, datetime.now(UTC))]
    for line in (
        "kind: BACKLOG_REFUSED",
        "reason: CHAIN_BROKEN",
        "relay: relay-1",
        "run: r1",
        "chunk: 3",
        f"chunk digest: {'aa' * 32}",
        f"chain claimed: {'bb' * 32}",
    ):
        assert line in lines


def test_an_enum_value_newer_than_this_program_shows_as_its_number() -> None:
    scope = domain_pb2.DomainSpec()
    scope.MergeFromString(bytes([3 << 3, 99]))
    assert list(describe(scope, datetime.now(UTC))) == ["kind: 99"]
