"""What to try once the story is over: lines for a shell, which work as they stand. Owns the lines and the trying of
them.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.demo.stage import (
    FIELD_NODE,
    GLOBAL,
    REAL_NODE,
    REGION_A,
    WAIT_S,
    ZONE_A1,
    ZONE_A2,
    Stage,
    administrator,
)
from deploy.local_processes import find_program
from trust.identity import Kind

#: Where the project is: lines are shown as they are typed from there.
PROJECT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True, slots=True)
class Line:
    """One line, and what it shows."""

    about: str
    text: str


def invitation(stage: Stage) -> Sequence[Line]:
    """The lines to try."""
    return [*_souverixctl(stage), *_grpcurl(stage), *_agent(stage)]


def show_invitation(stage: Stage) -> None:
    """Prints the lines."""
    stage.display.blank()
    stage.display.say(
        "The federation stays up. Try, in another terminal, from the project's directory:"
    )
    for line in invitation(stage):
        stage.display.blank()
        stage.display.say(f"# {line.about}", style="dim")
        stage.display.command(line.text)
    stage.display.blank()
    stage.display.say("Ctrl-C here stops everything.", style="bold")


async def try_all(stage: Stage, lines: Sequence[Line]) -> bool:
    """Runs every line in a shell; tells whether each ended well and said something."""
    good = True
    with stage.display.waiting("the lines to try") as progress:
        for number, line in enumerate(lines, 1):
            progress.show(f"trying line {number}/{len(lines)}: {line.about}", number / len(lines))
            code, output = await _run(line.text)
            if code != 0 or not output.strip():
                stage.display.failed(f"{line.text}\nexit code {code}: {output.strip()[-600:]}")
                good = False
        took_s = progress.elapsed_s
    if good:
        stage.display.happened(f"all {len(lines)} lines to try work", took_s)
    return good


async def _run(text: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_shell(
        text,
        cwd=PROJECT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "NO_COLOR": "1"},
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), WAIT_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        return 1, f"not done within {WAIT_S:g} s"
    return process.returncode or 0, output.decode(errors="replace")


def _souverixctl(stage: Stage) -> list[Line]:
    server = stage.federation.server
    ctl = f"{_shown(Path(sys.executable).parent / 'souverixctl')} --server"
    above, region, zone, below = (
        f"{ctl} {server(d)} --tls {_shown(_administrator(stage, d))}"
        for d in (GLOBAL, REGION_A, ZONE_A1, ZONE_A2)
    )
    return [
        Line("the tree: authority, terms, links", f"{above} federation status"),
        Line("the fleet at a glance", f"{above} overview"),
        Line("what to look at first", f"{above} attention"),
        Line("what hangs together, with its health", f"{above} graph --depth 2"),
        Line("how nodes differ from what is desired", f"{above} drift {ZONE_A2}"),
        Line("what a node went through", f"{above} history {FIELD_NODE}"),
        Line(
            "its return, as the zone measured it", f"{below} replay {FIELD_NODE} --domain {ZONE_A2}"
        ),
        Line("what it was like a while ago", f"{below} node {FIELD_NODE} --as-of 10s"),
        Line("links of the region: two replicas are named", f"{region} federation peers"),
        Line("what is known of this host at global", f"{above} describe node {REAL_NODE}"),
        Line("nodes of a zone", f"{above} get nodes --domain {ZONE_A1} --limit 5"),
        Line(
            "a command to a whole zone, followed to its end",
            f"{above} command ping --domain {ZONE_A1} --wait",
        ),
        Line("conflicts so far", f"{above} conflicts list"),
        Line(
            "a policy written at global for everyone",
            f"{above} create policy {GLOBAL}/greeting --version 1",
        ),
        Line("policies as the zone knows them", f"{zone} get policies"),
        Line("who you are, and what you may", f"{zone} access whoami"),
        Line("who did what", f"{above} audit list --domain {ZONE_A1} --limit 10"),
        Line("chains and seals recomputed", f"{above} audit verify --all-lanes"),
    ]


def _administrator(stage: Stage, domain: str) -> Path:
    """Where who administers a domain has its certificate."""
    user = administrator(domain).removeprefix("user:")
    return stage.federation.certificates.leaf(domain, Kind.USER, user)


def _grpcurl(stage: Stage) -> list[Line]:
    shown = _shown(_administrator(stage, GLOBAL))
    files = f"-cacert {shown}/roots.pem -cert {shown}/identity.pem -key {shown}/identity.pem"
    grpcurl = f"{_shown(Path(find_program('grpcurl')))} {files}"
    above, zone = stage.federation.address(GLOBAL), stage.federation.address(ZONE_A1)
    node = shlex.quote(
        json.dumps({"name": f"nodes/{REAL_NODE}", "readMask": {"paths": ["inventory"]}})
    )
    return [
        Line("services, by reflection", f"{grpcurl} {above} list"),
        Line("the node, read by grpcurl", f"{grpcurl} -d {node} {above} {_FLEET}/GetNode"),
        Line("health", f"{grpcurl} {zone} grpc.health.v1.Health/Check"),
        Line("a controller of itself", f"{grpcurl} {zone} {_FEDERATION}/GetStatus"),
    ]


def _agent(stage: Stage) -> list[Line]:
    agent = _shown(Path(sys.executable).parent / "souverix-node")
    directory = shlex.quote(str(stage.federation.directory / f"agent-{REAL_NODE}"))
    return [Line("the agent of this host", f"{agent} status --state-dir {directory}")]


_FLEET = "souverix.fleet.v1.FleetService"
_FEDERATION = "souverix.federation.v1.FederationService"


def _shown(program: Path) -> str:
    """A program as it is typed from the project's directory."""
    return shlex.quote(
        str(program.relative_to(PROJECT)) if program.is_relative_to(PROJECT) else str(program)
    )
