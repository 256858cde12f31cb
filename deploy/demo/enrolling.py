"""Step: a machine without a certificate comes by a one-time token and becomes a node. Owns that step."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from deploy.demo.node_return import LIVE, in_mode
from deploy.demo.questions import refusals_at
from deploy.demo.shell import play_line, program, shown, souverixctl
from deploy.demo.stage import GLOBAL, NEW_NODE, ZONE_A1, Seen, Stage, expect
from souverix.audit.v1 import audit_pb2
from trust.files import IDENTITY_FILE, TrustFiles

#: A token, as it is shown once: domain, number and secret.
TOKEN = re.compile(rf"{ZONE_A1}\.[0-9a-f]+\.[0-9a-f]+")

#: How the agent's program ends when it is not let in for good.
REFUSED_CODE = 2

USED = "ENROLMENT_TOKEN_USED"


async def enrol(stage: Stage) -> str:
    """An administrator makes a token, a new machine enrols by it and becomes LIVE; a second one is refused with it."""
    top, directory = stage.client(GLOBAL), stage.federation.directory
    create = f"enrolment token create {ZONE_A1} --node {NEW_NODE} --valid-for 1h"
    told = await play_line(stage, f"{souverixctl(stage, ZONE_A1)} {create}")
    found = TOKEN.search(told)
    expect(found is not None, f"no token is shown: {told}")
    token = directory / "token"
    token.write_text(found.group() if found else "")
    own = directory / NEW_NODE
    told = await play_line(stage, f"{_enrol(stage)} --tls {shown(own)}")
    identity = TrustFiles.in_directory(own).read().verified(datetime.now(UTC)).identity
    stage.display.happened(f"it has a certificate of the zone's own authority: {identity}")
    stage.federation.start_agent(ZONE_A1, NEW_NODE, tls=own)
    stage.remember_processes()
    _, took_s = await stage.until(
        f"{NEW_NODE} live at {GLOBAL}", lambda: in_mode(top, LIVE, NEW_NODE)
    )
    stage.display.happened(f"{NEW_NODE} has joined {ZONE_A1}, and is LIVE at {GLOBAL}", took_s)

    second = directory / "second-machine"
    told = await play_line(stage, f"{_enrol(stage)} --tls {shown(second)}", code=REFUSED_CODE)
    expect(USED in told, f"the second machine was refused for another reason: {told}")
    expect(not (second / IDENTITY_FILE).exists(), "the second machine has got a certificate")

    async def audited() -> Seen[audit_pb2.AuditRecord]:
        found = [r for r in await refusals_at(top, ZONE_A1) if r.reason == USED]
        return Seen(f"{len(found)} refusals of it in the audit", found[0] if found else None)

    record, took_s = await stage.until(f"the refusal in the audit at {GLOBAL}", audited)
    stage.display.happened(f"refused, and audited: {record.action}, {record.reason}", took_s)
    return f"{NEW_NODE} enrolled and LIVE; its token was good once"


def _enrol(stage: Stage) -> str:
    federation = stage.federation
    return (
        f"{program('souverix-node')} enrol --node {NEW_NODE}"
        f" --controller {federation.enrolment_address(ZONE_A1)}"
        f" --token-file {shown(federation.directory / 'token')}"
        f" --root-fingerprint {federation.certificates.root_fingerprint}"
    )
