"""Step: agents that call themselves another node are refused. Owns that step, and the impostors' certificates."""

from __future__ import annotations

import json
import re
from pathlib import Path

from deploy.demo import dishonest_agent
from deploy.demo.attention import show_item
from deploy.demo.client import Client
from deploy.demo.questions import node_at, refusals_at
from deploy.demo.stage import (
    FIELD_NODE,
    GLOBAL,
    LENT_NODE,
    REGION_A,
    ZONE_A2,
    Seen,
    Stage,
    expect,
)
from deploy.local_certificates import LocalCertificates
from souverix.attention.v1 import attention_pb2
from souverix.audit.v1 import audit_pb2
from souverix.fleet.v1 import connectivity_pb2, node_pb2, return_pb2
from trust.files import TrustFiles, read_roots, write_roots
from trust.identity import Kind

#: What an agent logs when it was not let in.
DIAL_FAILED = re.compile(r" dial_failed .*\bdetail=(\".*\")")

REFUSED = attention_pb2.ATTENTION_KIND_NODE_AGENT_REFUSED
WRONG_CERTIFICATE = return_pb2.INCIDENT_KIND_WRONG_CERTIFICATE


async def refuse_impostors(stage: Stage) -> str:
    """Starts two real agents in the name of the field node: by another node's certificate, and by a stranger's."""
    top = stage.client(GLOBAL)
    since = (await _live(top)).connectivity.link.since
    await _by_another_certificate(stage, top)
    await _by_another_root(stage, top)
    expect(
        (await _live(top)).connectivity.link.since == since,
        f"the true {FIELD_NODE} has lost its link to an impostor",
    )
    stage.display.happened(f"the true {FIELD_NODE} kept its link, and is LIVE")
    return "two refused, one raised and audited; the true node kept its link"


async def _by_another_certificate(stage: Stage, top: Client) -> None:
    """A member of the zone, and not this one: it gets as far as its name."""
    shown = stage.federation.certificates.leaf(ZONE_A2, Kind.NODE, LENT_NODE)
    why = await _turned_away(stage, "impostor", shown)
    expect(f"node:{LENT_NODE}" in why, f"the impostor was turned away for another reason: {why}")
    stage.display.happened(f"with the certificate of {LENT_NODE}, refused: {why}")

    async def recorded() -> Seen[return_pb2.ReturnIncident]:
        incident = (await node_at(top, FIELD_NODE)).return_incident
        kind = return_pb2.IncidentKind.Name(incident.kind).removeprefix("INCIDENT_KIND_")
        done = incident.kind == WRONG_CERTIFICATE
        return Seen(f"last incident of {FIELD_NODE}: {kind}", incident if done else None)

    await stage.until(f"the incident at {GLOBAL}", recorded)
    await show_item(stage, top, ZONE_A2, REFUSED, f"nodes/{FIELD_NODE}")

    async def audited() -> Seen[audit_pb2.AuditRecord]:
        found = [r for r in await refusals_at(top, ZONE_A2) if r.reason == "WRONG_CERTIFICATE"]
        return Seen(f"{len(found)} refusals in the audit", found[0] if found else None)

    record, _ = await stage.until(f"the refusal in the audit at {GLOBAL}", audited)
    stage.display.table(
        ("AUDITED", "OF", "REASON", "EVIDENCE"),
        [(record.action, record.resource, record.reason, record.message)],
    )


async def _by_another_root(stage: Stage, top: Client) -> None:
    """The right name, by an authority of somebody's own making: it is nobody to TLS, and no call comes about."""
    before = len(await refusals_at(top, ZONE_A2))
    why = await _turned_away(stage, "stranger", _forged(stage))
    expect("node:" not in why, f"the stranger was heard: {why}")
    expect("VERIFY" not in why.upper(), f"the stranger did not believe the controller: {why}")
    stage.display.happened(f"with its own name by another root: no handshake. {why}")
    after = len(await refusals_at(top, ZONE_A2))
    expect(after == before, "who cannot shake hands must not reach the audit")


async def _turned_away(stage: Stage, name: str, certificate: Path) -> str:
    """Runs an agent in the name of the field node until it was not let in; what it was told."""
    federation = stage.federation
    agent = federation.start_agent(
        ZONE_A2, FIELD_NODE, name=name, tls=certificate, module=dishonest_agent.__name__
    )
    stage.remember_processes()

    async def told() -> Seen[str]:
        found = DIAL_FAILED.search(agent.log_path.read_text(errors="replace"))
        return Seen(f"the {name} dials", json.loads(found[1]) if found else None)

    why, _ = await stage.until(f"the {name} is refused", told)
    federation.processes.pop(f"agent/{name}").stop()
    return why


def _forged(stage: Stage) -> Path:
    """A certificate that names the field node, below a root that nobody in the federation knows.

    It trusts the true root as well, so that it takes the controller for what it is.
    """
    directory = stage.federation.directory / "stranger"
    domains = [(GLOBAL, ""), (REGION_A, GLOBAL), (ZONE_A2, REGION_A)]
    forged = LocalCertificates(directory, domains).leaf(ZONE_A2, Kind.NODE, FIELD_NODE)
    own = TrustFiles.in_directory(forged)
    true = stage.federation.certificates.leaf(ZONE_A2, Kind.NODE, FIELD_NODE)
    both = [*read_roots(own.roots), *read_roots(TrustFiles.in_directory(true).roots)]
    write_roots(forged, both)
    return forged


async def _live(client: Client) -> node_pb2.Node:
    """The field node, which must be LIVE."""
    node = await node_at(client, FIELD_NODE)
    mode = node.connectivity.link.mode
    expect(
        mode == connectivity_pb2.CONNECTIVITY_MODE_LIVE,
        f"{FIELD_NODE} is {connectivity_pb2.ConnectivityMode.Name(mode)}, not LIVE",
    )
    return node
