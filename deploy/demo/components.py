"""Step: which nodes run a package, asked over the real SBOM of this host. Owns that step."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from packageurl import PackageURL

from deploy.demo.client import Client
from deploy.demo.questions import download, node_at
from deploy.demo.shell import play_line, souverixctl
from deploy.demo.stage import (
    FIELD_NODE,
    GLOBAL,
    ISLAND_NODE,
    LENT_NODE,
    NEW_NODE,
    REAL_NODE,
    SHED_NODE,
    Seen,
    Stage,
    expect,
    new_request_id,
)
from souverix.fleet.v1 import fleet_service_pb2
from souverix.supply.v1 import supply_service_pb2

#: What everybody has heard of, in this order; on a host without any of them the first component serves.
KNOWN = ("openssl", "libssl3", "libc6", "dpkg")

#: A distribution that this program itself runs on: what the SBOM says of it can be compared.
OWN_DISTRIBUTION = "cryptography"

#: Nodes that are this host, each by an agent of its own: in two zones, and behind the air gap.
THIS_HOST = {REAL_NODE, NEW_NODE, FIELD_NODE, LENT_NODE, SHED_NODE, ISLAND_NODE}

#: A node that is declared, and that no agent has looked into.
SPARE = "spare-unit"


@dataclass(frozen=True, slots=True)
class Installed:
    """A component of this host."""

    purl: str
    version: str


async def who_runs_it(stage: Stage) -> str:
    """Picks a package from the SBOM of this host, and asks who runs its version or a newer one, and who an older."""
    top = stage.client(GLOBAL)
    await _declare_spare(top)
    package = _pick(await _sbom(stage, top))
    found, took_s = await stage.until(f"SBOMs read at {GLOBAL}", lambda: _asked(top, package, ">="))
    stage.display.happened(f"{GLOBAL} has read every SBOM that nodes have reported", took_s)
    names = {each.node for each in found.nodes}
    expect(names == THIS_HOST, f"found are {sorted(names)}, not the nodes that are this host")
    line = f"who-runs {package.purl} {shlex.quote('>=' + package.version)} --unknown"
    told = await play_line(stage, f"{souverixctl(stage, GLOBAL)} {line}")
    expect(all(node in told for node in (*THIS_HOST, SPARE)), f"not all nodes are named: {told}")
    older, _ = await stage.until("the answer", lambda: _asked(top, package, "<"))
    expect(
        not THIS_HOST & {each.node for each in older.nodes},
        f"this host is said to run an older version than {package.version}",
    )
    counts = older.counts
    unknown = counts.nodes - counts.affected - counts.not_affected
    expect(
        0 < unknown == counts.unknown_no_sbom and f"unknown: {unknown} without an SBOM" in told,
        f"{unknown} nodes cannot be told of, and this is said of them: {counts}",
    )
    stage.display.happened(
        f"an older version run {counts.affected} made-up nodes; {SPARE} has no SBOM: unknown, not safe"
    )
    return f"{package.version} or newer at {len(names)} nodes, older at {counts.affected}, {unknown} unknown"


async def _declare_spare(client: Client) -> None:
    await client.call(
        fleet_service_pb2.CreateNodeRequest(
            domain=GLOBAL, node_id=SPARE, request_id=new_request_id("spare")
        ),
        fleet_service_pb2.CreateNodeResponse,
    )


async def _sbom(stage: Stage, top: Client) -> list[dict[str, Any]]:
    """The components of this host, by the document that global holds; one of them is known to this process."""

    async def held() -> Seen[bytes]:
        values = (await node_at(top, REAL_NODE)).inventory.large_values
        value = next((each for each in values if each.name == "sbom"), None)
        if value is None:
            return Seen(f"the inventory of {REAL_NODE} names no SBOM yet")
        return Seen(value.digest, await download(top, value.digest))

    content, took_s = await stage.until(f"the SBOM of {REAL_NODE} at {GLOBAL}", held)
    document = json.loads(content)
    components: list[dict[str, Any]] = document["components"]
    own = [c for c in components if c["name"] == OWN_DISTRIBUTION and "pypi" in c["purl"]]
    installed = version(OWN_DISTRIBUTION)
    expect(
        any(c["version"] == installed for c in own),
        f"{OWN_DISTRIBUTION} {installed} is installed, and the SBOM says {own}",
    )
    stage.display.happened(
        f"the SBOM of {REAL_NODE} is at {GLOBAL}: {document['bomFormat']} {document['specVersion']}, "
        f"{len(components)} components, {len(content)} bytes",
        took_s,
    )
    return components


def _pick(components: list[dict[str, Any]]) -> Installed:
    named = {c["name"]: c for c in reversed(components) if c["purl"].startswith("pkg:deb/")}
    chosen = next((named[name] for name in KNOWN if name in named), components[0])
    purl = PackageURL.from_string(chosen["purl"])
    return Installed(
        PackageURL(purl.type, purl.namespace, purl.name).to_string(), chosen["version"]
    )


async def _asked(
    client: Client, package: Installed, comparator: str
) -> Seen[supply_service_pb2.FindAffectedNodesResponse]:
    """The answer, once every SBOM was read."""
    reply = await client.call(
        supply_service_pb2.FindAffectedNodesRequest(
            purl=package.purl,
            version_range=f"{comparator}{package.version}",
            domain=GLOBAL,
            include_subtree=True,
            page_size=1000,
        ),
        supply_service_pb2.FindAffectedNodesResponse,
    )
    unread = reply.counts.unknown_not_read
    return Seen(f"{unread} SBOMs are not read yet", None if unread else reply)
