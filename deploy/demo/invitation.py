"""What to try once the story is over: lines for a shell, which work as they stand. Owns the lines and the trying of
them.
"""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.demo.shell import certificate, program, run, shown, souverixctl
from deploy.demo.stage import (
    FIELD_NODE,
    GLOBAL,
    REAL_NODE,
    REGION_A,
    ZONE_A1,
    ZONE_A2,
    Stage,
)
from deploy.local_processes import find_program

#: Lines tried at the same time.
TRIED_AT_ONCE = 3


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
    places, tried = asyncio.Semaphore(TRIED_AT_ONCE), 0

    async def is_good(line: Line) -> bool:
        nonlocal tried
        async with places:
            code, output = await run(line.text)
        tried += 1
        progress.show(f"tried {tried}/{len(lines)} lines: {line.about}", tried / len(lines))
        if code == 0 and output:
            return True
        stage.display.failed(f"{line.text}\nexit code {code}: {output[-600:]}")
        return False

    with stage.display.waiting("the lines to try") as progress:
        good = all(await asyncio.gather(*map(is_good, lines)))
        took_s = progress.elapsed_s
    if good:
        stage.display.happened(f"all {len(lines)} lines to try work", took_s)
    return good


def _souverixctl(stage: Stage) -> list[Line]:
    above, region, zone, below = (
        souverixctl(stage, domain) for domain in (GLOBAL, REGION_A, ZONE_A1, ZONE_A2)
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
        Line("who enrolled", f"{zone} enrolment list"),
        Line("what was revoked", f"{below} certificate revocations --domain {ZONE_A2}"),
        Line("who did what", f"{above} audit list --domain {ZONE_A1} --limit 10"),
        Line("chains and seals recomputed", f"{above} audit verify --all-lanes"),
    ]


def _grpcurl(stage: Stage) -> list[Line]:
    tls = shown(certificate(stage, GLOBAL))
    files = f"-cacert {tls}/roots.pem -cert {tls}/identity.pem -key {tls}/identity.pem"
    grpcurl = f"{shown(Path(find_program('grpcurl')))} {files}"
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
    directory = shown(stage.federation.directory / f"agent-{REAL_NODE}")
    line = f"{program('souverix-node')} status --state-dir {directory}"
    return [Line("the agent of this host", line)]


_FLEET = "souverix.fleet.v1.FleetService"
_FEDERATION = "souverix.federation.v1.FederationService"
