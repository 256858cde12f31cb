"""Attestation with real processes, operated from the level above: a measured file changes, the node is quarantined, put
right, verified again and released.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from tests.e2e.clients import wait_until
from tests.e2e.ctl import Ctl

REGION, ZONE, NODE = "region-a", "edge-zone-a1", "a1-gw-1"


def test_a_changed_file_quarantines_its_node_until_it_is_verified_again(tmp_path: Path) -> None:
    measured = tmp_path / "gateway.conf"
    measured.write_text("mode = strict\n")
    plans = [
        DomainPlan(REGION, kind="global", level="global", log="sqlite"),
        DomainPlan(ZONE, REGION, log="sqlite"),
    ]
    with LocalFederation(tmp_path / "federation", plans) as federation:
        federation.start_all()
        federation.start_agent(ZONE, NODE, "--measure", str(measured))
        above, zone = Ctl(federation.address(REGION)), Ctl(federation.address(ZONE))

        def node(at: Ctl) -> Any:
            # Until the node is known there, the program says so by its exit code.
            listed = at("nodes", "--domain", ZONE, "-o", "json").json.get("nodes", [])
            return next((each for each in listed if each["id"] == NODE), {})

        def state(at: Ctl) -> str:
            attested = node(at).get("trust", {}).get("runtimeAttestation", {})
            return str(attested.get("integrityState", "")).removeprefix("INTEGRITY_STATE_")

        def phase(at: Ctl) -> str:
            return str(node(at).get("lifecycle", {}).get("phase", ""))

        wait_until(lambda: phase(above) == "LIFECYCLE_PHASE_ACTIVE", "the node is active")
        # Declared above the zone, it holds in it; the first values are believed.
        above(
            "attestation", "set-policy", REGION, "--pin", "agent.program", "--pin", "files",
            "--on-failure", "quarantine",
        )  # fmt: skip
        wait_until(lambda: state(above) == "VERIFIED", "the node is verified, also seen from above")

        measured.write_text("mode = open\n")
        failed = above("attestation", "attest", NODE, "--wait", code=1)
        assert "NOT_AS_PINNED" in failed.out
        assert str(measured) in failed.out
        wait_until(lambda: phase(above) == "LIFECYCLE_PHASE_QUARANTINED", "it is quarantined")
        items = zone("attention", "list", "--kind", "attestation-failed", "-o", "json").json[
            "items"
        ]
        assert [each["subject"] for each in items] == [f"nodes/{NODE}"]
        release = ("lifecycle", NODE, "release-from-quarantine", "--reason", "mended")
        assert "not verified since" in above(*release, code=4).err

        measured.write_text("mode = strict\n")
        above("attestation", "attest", NODE, "--wait")
        above(*release)
        wait_until(lambda: phase(zone) == "LIFECYCLE_PHASE_ACTIVE", "it was released")
        history = above("attestation", "history", NODE, "-o", "json").json["attestations"]
        assert [each["state"].removeprefix("INTEGRITY_STATE_") for each in history] == [
            "VERIFIED",
            "FAILED",
            "VERIFIED",
        ]
        entries = zone("audit", "list", "-o", "json").json["entries"]
        verdicts = [e["record"] for e in entries if e["record"]["action"] == "node.attest"]
        denied = [each for each in verdicts if each["outcome"] == "AUDIT_OUTCOME_DENIED"]
        assert ["quarantined" in each["message"] for each in denied] == [True]
