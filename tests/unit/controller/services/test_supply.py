from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer._crypto_signer import CryptoSigner

from controller.services import supply_artifacts
from controller.supply.summaries import sign_summary
from controller.supply.trust import effective_policy, trust_digest
from souverix.attention.v1 import attention_pb2
from souverix.attention.v1 import attention_service_pb2 as attention
from souverix.federation.v1 import authority_pb2
from souverix.fleet.v1 import domain_pb2, node_pb2, observation_pb2, supply_chain_pb2
from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverix.policy.v1 import policy_pb2
from souverix.policy.v1 import policy_service_pb2 as policies
from souverix.supply.v1 import artifact_pb2 as artifacts
from souverix.supply.v1 import supply_service_pb2 as supply
from tests.unit.controller.services.served import Served, hand_over, refusal, zone_served
from tests.unit.controller.supply.signers import (
    DAY_MS,
    DIGEST,
    NOW_MS,
    PAYLOAD,
    Authority,
    der,
    enveloped,
    provenance,
    spec,
    trusted,
)

NAME = "domains/global/artifacts/rempart-1-4-7"
DEADLINE_S = 20.0
VERIFIED = artifacts.VERIFICATION_STATE_VERIFIED
UNVERIFIABLE = artifacts.VERIFICATION_STATE_UNVERIFIABLE


@pytest.fixture
def builder() -> CryptoSigner:
    return CryptoSigner.generate_ed25519()


async def believe(root: Served, *signers: artifacts.TrustedSigner, **fields: Any) -> Any:
    request = supply.SetSupplyPolicyRequest(
        domain="global", spec=artifacts.SupplyPolicySpec(signers=signers, **fields)
    )
    return (await root.supply.SetSupplyPolicy(request)).policy


async def create(
    root: Served, declared: artifacts.ArtifactSpec, id_: str = "rempart-1-4-7", **fields: Any
) -> Any:
    request = supply.CreateArtifactRequest(
        domain="global", artifact_id=id_, spec=declared, **fields
    )
    return (await root.supply.CreateArtifact(request)).artifact


async def get(root: Served) -> artifacts.Artifact:
    reply = await root.supply.GetArtifact(supply.GetArtifactRequest(name=NAME))
    artifact: artifacts.Artifact = reply.artifact
    return artifact


async def until(root: Served, holds: Any) -> artifacts.Artifact:
    async with asyncio.timeout(DEADLINE_S):
        while not holds(artifact := await get(root)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return artifact


def pieces(data: bytes, size: int = 1000) -> Iterator[supply.UploadSbomRequest]:
    for at in range(0, len(data), size):
        yield supply.UploadSbomRequest(data=data[at : at + size])


def bom(count: int = 3) -> bytes:
    components = [
        {"type": "library", "name": f"c{n}", "purl": f"pkg:deb/debian/c{n}@1.{n}"}
        for n in range(count)
    ]
    document = {"bomFormat": "CycloneDX", "specVersion": "1.6", "components": components}
    return json.dumps(document).encode()


async def test_created_artifact_is_judged_and_its_verdict_is_a_fact(
    root: Served, builder: CryptoSigner
) -> None:
    await believe(root, trusted(builder, artifacts.SIGNER_USE_PROVENANCE, slsa_build_level=2))

    artifact = await create(root, spec(enveloped(builder, provenance())))

    assert (artifact.name, artifact.domain) == (NAME, "global")
    verdict = artifact.verdict
    assert (verdict.state, verdict.verifier, artifact.verdict_stale) == (
        VERIFIED,
        "global-control",
        False,
    )
    assert json.loads(verdict.summary)["payloadType"] == "application/vnd.in-toto+json"
    assert (await get(root)) == artifact


async def test_change_of_trust_is_judged_anew(root: Served, builder: CryptoSigner) -> None:
    artifact = await create(root, spec(enveloped(builder, provenance())))
    assert artifact.verdict.state == UNVERIFIABLE

    await believe(root, trusted(builder, artifacts.SIGNER_USE_PROVENANCE))
    better = await until(root, lambda a: a.verdict.state == VERIFIED)
    assert not better.verdict_stale

    await believe(root)
    worse = await until(root, lambda a: a.verdict.state == UNVERIFIABLE)
    assert (worse.etag, worse.verdict.summary) == (artifact.etag, b"")


async def test_change_of_the_gate_alone_keeps_verdicts(root: Served, builder: CryptoSigner) -> None:
    entry = trusted(builder, artifacts.SIGNER_USE_PROVENANCE)
    before = await believe(root, entry)
    artifact = await create(root, spec(enveloped(builder, provenance())))
    after = await believe(root, entry, gate=artifacts.GATE_MODE_ENFORCE)
    assert before.trust_digest == after.trust_digest
    assert before.etag != after.etag
    assert (await get(root)).verdict == artifact.verdict


async def test_envelope_is_attached_once(root: Served, builder: CryptoSigner) -> None:
    await believe(root, trusted(builder, artifacts.SIGNER_USE_PROVENANCE))
    old = await create(root, spec())
    request = supply.AttachEnvelopeRequest(
        name=NAME, envelope=enveloped(builder, provenance()), etag=old.etag
    )
    new = (await root.supply.AttachEnvelope(request)).artifact
    assert (old.verdict.state, new.verdict.state) == (
        artifacts.VERIFICATION_STATE_UNSIGNED,
        VERIFIED,
    )
    code, _, _ = await refusal(root.supply.AttachEnvelope(request))
    assert code is grpc.StatusCode.ABORTED
    request.etag = ""
    code, _, _ = await refusal(root.supply.AttachEnvelope(request))
    assert code is grpc.StatusCode.ALREADY_EXISTS


async def test_uploaded_sbom_counts_towards_the_verdict(
    root: Served, builder: CryptoSigner
) -> None:
    data = bom(200)
    uploaded = await root.supply.UploadSbom(pieces(data))
    assert (uploaded.component_count, uploaded.spec_version) == (200, "1.6")
    await believe(
        root,
        trusted(builder, artifacts.SIGNER_USE_PROVENANCE),
        requirements=[artifacts.REQUIREMENT_SBOM],
    )
    about_both = provenance(DIGEST, hashlib.sha256(data).hexdigest())

    artifact = await create(root, spec(enveloped(builder, about_both), sbom=uploaded.sbom))

    assert artifact.verdict.state == VERIFIED
    assert artifacts.REQUIREMENT_SBOM in artifact.verdict.fulfilled


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "DOCUMENT_NO_JSON"),
        (b"{" * 100_000, "DOCUMENT_TOO_DEEP"),
        (bom().replace(b"CycloneDX", b"Cyclone", 1), "SBOM_NO_CYCLONEDX"),
        (bom()[:-1] + b', "version": 1, "version": 2}', "DOCUMENT_AMBIGUOUS"),
        (bom()[:-1] + b', "extra": 1}', "SBOM_INVALID"),
    ],
)
async def test_bad_sbom_is_refused_and_not_kept(root: Served, data: bytes, reason: str) -> None:
    code, info, _ = await refusal(root.supply.UploadSbom(pieces(data, 100_000)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert info.metadata["document_reason"] == reason
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert await root.values.missing([digest]) == [digest]


async def test_uploads_are_bounded(root: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supply_artifacts, "MAX_SBOM_BYTES", 10_000)
    _, _, message = await refusal(root.supply.UploadSbom(pieces(b"[" * 20_000)))
    assert "10000 bytes" in message
    big = supply.UploadSbomRequest(data=b" " * 300_000)
    _, _, message = await refusal(root.supply.UploadSbom(iter([big])))
    assert "262144" in message

    monkeypatch.setattr(supply_artifacts, "UPLOAD_TIMEOUT_S", 0.1)
    go_on = asyncio.Event()

    async def slowly() -> AsyncIterator[supply.UploadSbomRequest]:
        yield supply.UploadSbomRequest(data=b"[")
        await go_on.wait()

    code, info, _ = await refusal(root.supply.UploadSbom(slowly()))
    go_on.set()
    assert (code, info.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "UPLOAD_TOO_SLOW")
    monkeypatch.setattr(supply_artifacts, "MAX_UPLOADS", 0)
    code, _, _ = await refusal(root.supply.UploadSbom(pieces(bom())))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_validate_only_judges_and_writes_nothing(root: Served) -> None:
    before = root.replica.state.next_offset
    artifact = await create(root, spec(), validate_only=True)
    assert artifact.verdict.state == artifacts.VERIFICATION_STATE_UNSIGNED
    assert root.replica.state.next_offset == before


async def test_bad_field_is_named(root: Served, builder: CryptoSigner) -> None:
    good = spec()

    def changed(**fields: Any) -> artifacts.ArtifactSpec:
        other = artifacts.ArtifactSpec()
        other.CopyFrom(good)
        other.MergeFrom(artifacts.ArtifactSpec(**fields))
        return other

    envelope = artifacts.SignedEnvelope(document=b"{}")
    for declared, field in (
        (artifacts.ArtifactSpec(), "spec.kind"),
        (changed(digest="sha256:short"), "spec.digest"),
        (changed(version=" " * 300), "spec.version"),
        (changed(purl="openssl"), "spec.purl"),
        (changed(envelopes=[envelope]), "spec.envelopes[0].document"),
        (changed(envelopes=[enveloped(builder, provenance())] * 17), "spec.envelopes"),
        (
            changed(payload_signature=artifacts.PayloadSignature()),
            "spec.payload_signature.signature",
        ),
        (changed(sbom={"digest": good.digest}), "spec.sbom.size_bytes"),
    ):
        code, info, _ = await refusal(create(root, declared))
        assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, field)
    for policy, field in (
        (artifacts.SupplyPolicySpec(signers=[trusted(builder)]), "spec.signers[0].uses"),
        (artifacts.SupplyPolicySpec(signers=[artifacts.TrustedSigner()]), "spec.signers[0].name"),
        (
            artifacts.SupplyPolicySpec(
                signers=[
                    artifacts.TrustedSigner(
                        name="a", public_key_pem="x", uses=[artifacts.SIGNER_USE_SBOM]
                    )
                ]
            ),
            "spec.signers[0]",
        ),
        (artifacts.SupplyPolicySpec(min_slsa_build_level=9), "spec.min_slsa_build_level"),
        (artifacts.SupplyPolicySpec(requirements=[77]), "spec.requirements[0]"),  # type: ignore[list-item]
    ):
        request = supply.SetSupplyPolicyRequest(domain="global", spec=policy)
        code, info, _ = await refusal(root.supply.SetSupplyPolicy(request))
        assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_artifacts_are_listed_filtered_watched_and_deleted(root: Served) -> None:
    await create(root, spec())
    other = spec()
    other.version = "1.4.8"
    await create(root, other, "rempart-1-4-8")
    listed = await root.supply.ListArtifacts(supply.ListArtifactsRequest(page_size=1))
    assert [a.id for a in listed.artifacts] == ["rempart-1-4-7"]
    assert listed.next_page_token
    request = supply.ListArtifactsRequest(version="1.4.8")
    assert [a.id for a in (await root.supply.ListArtifacts(request)).artifacts] == ["rempart-1-4-8"]
    request = supply.ListArtifactsRequest(states=[VERIFIED])
    assert not (await root.supply.ListArtifacts(request)).artifacts

    stream = root.supply.WatchArtifacts(supply.WatchArtifactsRequest(domain="global"))
    seen = [await asyncio.wait_for(stream.read(), DEADLINE_S) for _ in range(3)]
    assert [s.WhichOneof("step") for s in seen] == ["changed", "changed", "bookmark"]
    await root.supply.DeleteArtifact(supply.DeleteArtifactRequest(name=NAME))
    step = await asyncio.wait_for(stream.read(), DEADLINE_S)
    assert step.deleted == NAME
    stream.cancel()
    code, _, _ = await refusal(root.supply.GetArtifact(supply.GetArtifactRequest(name=NAME)))
    assert code is grpc.StatusCode.NOT_FOUND


async def test_zone_that_has_only_the_regions_summary_verifies_by_it(
    tmp_path: Any, builder: CryptoSigner
) -> None:
    autonomy = authority_pb2.Autonomy(
        can_operate_isolated=True, can_modify_policies=True, can_deploy_versions=True
    )
    async with zone_served(tmp_path / "zone", autonomy, "edge-a1-control") as (zone, parent):
        verdict = artifacts.ArtifactVerdict(
            state=VERIFIED,
            fulfilled=[artifacts.REQUIREMENT_SIGNATURE],
            trust_digest=trust_digest(effective_policy(parent.state, "global")),
            verifier=parent.name,
        )
        uri = "souverix:domains/global/supply-policy"
        summary = sign_summary(spec(), verdict, uri, parent.signer)
        request = supply.CreateArtifactRequest(
            domain="edge-a1",
            artifact_id="rempart",
            spec=spec(artifacts.SignedEnvelope(document=summary)),
        )

        artifact = (await zone.supply.CreateArtifact(request)).artifact

        assert artifact.verdict.state == VERIFIED
        assert artifact.verdict.findings[0].signer == parent.name

        believed = artifacts.SupplyPolicySpec(
            signers=[trusted(builder, artifacts.SIGNER_USE_PROVENANCE)]
        )
        parent.submit(
            lambda p: p.write(
                "global", "domains/global", "supply_policy", believed, principal="user:test"
            )
        )
        await hand_over(parent, zone)
        name = supply.VerifyArtifactRequest(name=artifact.name)
        later = (await zone.supply.VerifyArtifact(name)).verdict
        assert later.findings[0].reason == "SUMMARY_OUTDATED"


# Who runs what.


async def report(
    root: Served, node: str, document: bytes | None, sequence: int = 1, *, held: bool = True
) -> str:
    """A node of the root's domain with an SBOM, as a report of its agent leaves it."""
    inventory = observation_pb2.Inventory(hostname=f"{node}-{sequence}")
    inventory.observe_time.FromMilliseconds(NOW_MS + sequence)
    digest = ""
    if document is not None:
        digest = f"sha256:{hashlib.sha256(document).hexdigest()}"
        inventory.large_values.add(name="sbom", digest=digest, size_bytes=len(document))
        if held:
            await root.values.put(digest, document)
    if sequence == 1:
        request = fleet.CreateNodeRequest(domain="global", node_id=node, spec=node_pb2.NodeSpec())
        await root.fleet.CreateNode(request)
    await root.replica.journal().submit(
        lambda p: p.write(
            "global", f"nodes/{node}", "inventory", inventory, principal=f"node:{node}"
        )
    )
    return digest


def bom_of(**versions: str) -> bytes:
    components = [
        {"type": "library", "name": name, "purl": f"pkg:deb/debian/{name}@{version}"}
        for name, version in versions.items()
    ]
    document = {"bomFormat": "CycloneDX", "specVersion": "1.6", "components": components}
    return json.dumps(document).encode()


async def who_runs(
    root: Served, range_: str, purl: str = "pkg:deb/debian/openssl", **more: Any
) -> Any:
    request = supply.FindAffectedNodesRequest(purl=purl, version_range=range_, **more)
    return await root.supply.FindAffectedNodes(request)


async def settled(root: Served, holds: Any) -> Any:
    async with asyncio.timeout(DEADLINE_S):
        while not holds(reply := await who_runs(root, "<3.0.11", include_unknown=True)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return reply


async def test_nodes_that_run_a_component_are_found_and_what_is_not_known_is_counted(
    root: Served,
) -> None:
    await report(root, "old", bom_of(openssl="3.0.9", bash="5"))
    await report(root, "new", bom_of(openssl="3.0.11"))
    await report(root, "other", bom_of(bash="5"))
    await report(root, "silent", None)
    await report(root, "away", bom_of(openssl="3.0.8"), held=False)
    await report(root, "broken", b'{"bomFormat": "CycloneDX", "specVersion": "1.6", "x": 1}')

    reply = await settled(root, lambda r: r.counts.unknown_not_read == 1 and r.counts.nodes == 6)

    assert [n.node for n in reply.nodes] == ["away", "broken", "old", "silent"]
    assert {n.node: n.exposure for n in reply.nodes} == {
        "away": supply.EXPOSURE_UNKNOWN_NOT_READ,
        "broken": supply.EXPOSURE_UNKNOWN_INVALID_SBOM,
        "old": supply.EXPOSURE_AFFECTED,
        "silent": supply.EXPOSURE_UNKNOWN_NO_SBOM,
    }
    counts = reply.counts
    assert (counts.affected, counts.not_affected, counts.unknown_no_sbom) == (1, 2, 1)
    assert (counts.unknown_invalid_sbom, counts.unknown_version) == (1, 0)
    old = reply.nodes[2]
    assert list(old.purls) == ["pkg:deb/debian/openssl@3.0.9"]
    assert old.sbom_time.ToMilliseconds() == NOW_MS + 1
    assert (reply.version_scheme, old.domain) == ("deb", "global")
    plain = await who_runs(root, "<3.0.11")
    assert [n.node for n in plain.nodes] == ["old"]


async def test_answers_come_in_pages_and_bad_questions_are_refused(root: Served) -> None:
    for node in ("a", "b", "c"):
        await report(root, node, bom_of(openssl="1.0"))
    await settled(root, lambda r: r.counts.affected == 3)
    first = await who_runs(root, "", page_size=2)
    second = await who_runs(root, "", page_size=2, page_token=first.next_page_token)
    assert [n.node for n in (*first.nodes, *second.nodes)] == ["a", "b", "c"]
    assert second.next_page_token == ""
    for purl, range_, field in (("openssl", "", "purl"), ("pkg:deb/a/b", "<<1", "version_range")):
        code, info, _ = await refusal(who_runs(root, range_, purl))
        assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_an_unknown_scheme_of_versions_is_unknown_for_whoever_runs_it(root: Served) -> None:
    document = json.loads(bom_of())
    document["components"] = [{"type": "library", "name": "x", "purl": "pkg:generic/x@7"}]
    await report(root, "odd", json.dumps(document).encode())
    await settled(root, lambda r: r.counts.not_affected == 1)
    reply = await who_runs(root, "<9", "pkg:generic/x", include_unknown=True)
    assert (reply.version_scheme, reply.counts.unknown_version) == ("", 1)
    assert list(reply.nodes[0].purls) == ["pkg:generic/x@7"]
    assert (await who_runs(root, "", "pkg:generic/x")).counts.affected == 1


async def test_wrong_chunks_of_a_digest_do_not_spoil_it_for_others(root: Served) -> None:
    good = bom_of(openssl="3.0.9")
    digest = f"sha256:{hashlib.sha256(good).hexdigest()}"
    other = bom_of(bash="1")
    other_digest = f"sha256:{hashlib.sha256(other).hexdigest()}"
    await root.values.put(other_digest, other)
    await report(root, "liar", None)
    inventory = observation_pb2.Inventory()
    value = inventory.large_values.add(name="sbom", digest=digest, size_bytes=len(other))
    value.chunks.add(digest=other_digest, size_bytes=len(other))
    await root.replica.journal().submit(
        lambda p: p.write("global", "nodes/liar", "inventory", inventory, principal="node:liar")
    )
    await settled(root, lambda r: r.counts.unknown_invalid_sbom == 1)
    await report(root, "honest", good)
    reply = await settled(root, lambda r: r.counts.affected >= 1)
    assert "honest" in [n.node for n in reply.nodes if n.exposure == supply.EXPOSURE_AFFECTED]


async def test_lineage_of_a_nodes_sboms_is_kept_and_compared(root: Served) -> None:
    first = await report(root, "n1", bom_of(openssl="3.0.9", bash="5"))
    await settled(root, lambda r: r.counts.affected == 1)
    second = await report(root, "n1", bom_of(openssl="3.0.11", curl="8"), 2)
    await settled(root, lambda r: r.counts.not_affected == 1)
    request = supply.GetSbomLineageRequest(node="n1")
    async with asyncio.timeout(DEADLINE_S):
        while len((reply := await root.supply.GetSbomLineage(request)).versions) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert [v.digest for v in reply.versions] == [second, first]
    assert [v.component_count for v in reply.versions] == [2, 2]
    assert reply.compared
    assert [(c.purl, list(c.versions_before), list(c.versions_after)) for c in reply.changes] == [
        ("pkg:deb/debian/bash", ["5"], []),
        ("pkg:deb/debian/curl", [], ["8"]),
        ("pkg:deb/debian/openssl", ["3.0.9"], ["3.0.11"]),
    ]
    node = (await root.fleet.GetNode(fleet.GetNodeRequest(name="nodes/n1"))).node
    assert [entry.sbom_hash for entry in node.trust.sbom_lineage] == [second, first]
    assert node.supply_chain.software.sbom_hash == second


async def test_hardware_is_found_by_serial_and_by_batch(root: Served) -> None:
    for node, serial, batch in (("a", "S-1", "B-1"), ("b", "S-2", "B-1"), ("c", "S-11", "B-2")):
        hardware = supply_chain_pb2.HardwareIdentity(serial=serial, batch_id=batch)
        await root.fleet.CreateNode(
            fleet.CreateNodeRequest(
                domain="global", node_id=node, spec=node_pb2.NodeSpec(hardware=hardware)
            )
        )
    one = await root.supply.FindHardware(supply.FindHardwareRequest(serial="S-1"))
    assert [(u.node, u.hardware.batch_id) for u in one.units] == [("a", "B-1")]
    batch = await root.supply.FindHardware(
        supply.FindHardwareRequest(batch_id="B-1", domain="global")
    )
    assert [u.node for u in batch.units] == ["a", "b"]
    code, _, _ = await refusal(root.supply.FindHardware(supply.FindHardwareRequest()))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


# The gate.


def wanting(version: str) -> node_pb2.DesiredState:
    return node_pb2.DesiredState(target_version=version)


async def create_node(root: Served, node: str, version: str = "", component: str = "") -> Any:
    request = fleet.CreateNodeRequest(
        domain="global", node_id=node, spec=node_pb2.NodeSpec(component_type=component)
    )
    if version:
        request.desired_state.CopyFrom(wanting(version))
    return await root.fleet.CreateNode(request)


async def desire(root: Served, node: str, version: str) -> Any:
    request = fleet.SetDesiredStateRequest(name=f"nodes/{node}", desired_state=wanting(version))
    return await root.fleet.SetDesiredState(request)


async def effective_of(root: Served, node: str) -> node_pb2.EffectiveDesiredState:
    reply = await root.fleet.GetNode(fleet.GetNodeRequest(name=f"nodes/{node}"))
    effective: node_pb2.EffectiveDesiredState = reply.node.effective_desired_state
    return effective


async def test_closed_gate_admits_verified_versions_only(
    root: Served, builder: CryptoSigner
) -> None:
    entry = trusted(builder, artifacts.SIGNER_USE_PROVENANCE)
    await believe(root, entry, gate=artifacts.GATE_MODE_ENFORCE)
    await create(root, spec(enveloped(builder, provenance())))
    unsigned = spec()
    unsigned.version = "1.4.8"
    await create(root, unsigned, "rempart-1-4-8")
    await create_node(root, "n1", component="souverix-rempart")

    for version in ("1.4.7", "souverix-rempart-1.4.7"):
        await desire(root, "n1", version)
        effective = await effective_of(root, "n1")
        assert effective.desired_state.target_version == version
        assert not effective.held_back
    for call, words in (
        (desire(root, "n1", "1.4.8"), "UNSIGNED"),
        (desire(root, "n1", "9.9"), "no artifact stands for"),
        (create_node(root, "n2", "9.9"), "no artifact stands for"),
        (create_node(root, "n2", "1.4.7", "souverix-coeur"), "no artifact stands for"),
    ):
        code, info, message = await refusal(call)
        assert (code, info.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "VERSION_NOT_VERIFIED",
        )
        assert words in message
    policy = policies.CreatePolicyRequest(
        domain="global", policy_id="p1", spec=policy_pb2.PolicySpec(target_version="9.9")
    )
    _, info, _ = await refusal(root.policies.CreatePolicy(policy))
    assert info.reason == "VERSION_NOT_VERIFIED"
    batch = fleet.BatchSetDesiredStatesRequest(
        items=[{"name": "nodes/n1", "desired_state": wanting("9.9")}]
    )
    statuses = (await root.fleet.BatchSetDesiredStates(batch)).results
    assert "no artifact stands for" in statuses[0].status.message


@pytest.mark.parametrize("mode", [artifacts.GATE_MODE_OFF, artifacts.GATE_MODE_WARN])
async def test_open_gate_admits_everything(root: Served, mode: artifacts.GateMode) -> None:
    await believe(root, gate=mode)
    await create_node(root, "n1", "9.9")
    assert (await effective_of(root, "n1")).desired_state.target_version == "9.9"


async def test_version_that_came_by_another_way_is_held_back_where_it_would_govern(
    root: Served, builder: CryptoSigner
) -> None:
    await create_node(root, "n1", "9.9")
    entry = trusted(builder, artifacts.SIGNER_USE_PROVENANCE)
    await believe(root, entry, gate=artifacts.GATE_MODE_ENFORCE)

    effective = await effective_of(root, "n1")

    assert effective.desired_state.target_version == ""
    assert [(h.version, h.declared_by) for h in effective.held_back] == [("9.9", "nodes/n1")]
    listed = await root.fleet.ListNodes(fleet.ListNodesRequest(domain="global"))
    assert listed.nodes[0].drift.unknown_fields == []

    declared = spec(enveloped(builder, provenance()))
    declared.version = "9.9"
    await create(root, declared)
    assert (await effective_of(root, "n1")).desired_state.target_version == "9.9"

    await believe(root, gate=artifacts.GATE_MODE_ENFORCE)
    effective = await effective_of(root, "n1")
    assert effective.desired_state.target_version == ""
    assert "judged anew" in effective.held_back[0].reason or "UNVERIFIABLE" in (
        effective.held_back[0].reason
    )


async def test_cut_off_zone_is_gated_by_the_verdicts_of_its_region(
    tmp_path: Any, builder: CryptoSigner
) -> None:
    autonomy = authority_pb2.Autonomy(
        can_operate_isolated=True, can_modify_policies=True, can_deploy_versions=True
    )
    async with zone_served(tmp_path / "zone", autonomy, "edge-a1-control") as (zone, parent):
        believed = artifacts.SupplyPolicySpec(
            gate=artifacts.GATE_MODE_ENFORCE,
            signers=[trusted(builder, artifacts.SIGNER_USE_PROVENANCE)],
        )
        declared = spec(enveloped(builder, provenance()))
        digest = (
            "sha256:" + hashlib.sha256(declared.SerializeToString(deterministic=True)).hexdigest()
        )

        def write(aspect: str, subject: str, body: Any) -> None:
            parent.submit(lambda p: p.write("global", subject, aspect, body, principal="user:t"))

        write("supply_policy", "domains/global", believed)
        write("existence", "artifacts/r", domain_pb2.Existence(exists=True))
        write("artifact", "artifacts/r", declared)
        await hand_over(parent, zone)
        request = fleet.CreateNodeRequest(domain="edge-a1", node_id="n1", spec=node_pb2.NodeSpec())
        request.desired_state.CopyFrom(wanting("1.4.7"))
        _, info, message = await refusal(zone.fleet.CreateNode(request))
        assert (info.reason, "not judged" in message) == ("VERSION_NOT_VERIFIED", True)

        verdict = artifacts.ArtifactVerdict(
            state=VERIFIED,
            fulfilled=[artifacts.REQUIREMENT_SIGNATURE],
            spec_digest=digest,
            trust_digest=trust_digest(effective_policy(parent.state, "global")),
        )
        write("artifact_verdict", "artifacts/r", verdict)
        await hand_over(parent, zone)
        await zone.fleet.CreateNode(request)

        stricter = artifacts.SupplyPolicySpec(requirements=[artifacts.REQUIREMENT_SBOM])
        await zone.supply.SetSupplyPolicy(
            supply.SetSupplyPolicyRequest(domain="edge-a1", spec=stricter)
        )
        node = (await zone.fleet.GetNode(fleet.GetNodeRequest(name="nodes/n1"))).node
        assert (
            "lacks what domain edge-a1 demands" in node.effective_desired_state.held_back[0].reason
        )


async def run_version(root: Served, node: str, version: str) -> None:
    body = node_pb2.ActualState(reported_version=version)
    await root.replica.journal().submit(
        lambda p: p.write("global", f"nodes/{node}", "actual_state", body, principal="node:n")
    )


async def violations(root: Served) -> list[Any]:
    request = attention.ListItemsRequest(
        kinds=[attention_pb2.ATTENTION_KIND_SUPPLY_CHAIN_VIOLATION]
    )
    return list((await root.attention.ListItems(request)).items)


async def test_nodes_that_run_what_is_not_verified_are_listed_and_raised(
    root: Served, builder: CryptoSigner
) -> None:
    entry = trusted(builder, artifacts.SIGNER_USE_PROVENANCE)
    await believe(root, entry)
    await create(root, spec(enveloped(builder, provenance())))
    for node, version in (("good", "1.4.7"), ("bad", "1.4.8"), ("mute", "")):
        await create_node(root, node)
        if version:
            await run_version(root, node, version)

    reply = await root.supply.ListUnverifiedNodes(supply.ListUnverifiedNodesRequest())

    assert [(n.node, n.version, n.artifact) for n in reply.nodes] == [("bad", "1.4.8", "")]
    assert (reply.node_count, reply.verified_count, reply.unknown_count) == (3, 1, 1)
    assert await violations(root) == []
    good = (await root.fleet.GetNode(fleet.GetNodeRequest(name="nodes/good"))).node
    assert good.supply_chain.software.artifact == NAME
    assert good.supply_chain.software.container.provenance == "signed-by-build-system"

    await believe(root, entry, gate=artifacts.GATE_MODE_WARN)
    async with asyncio.timeout(DEADLINE_S):
        while not (items := await violations(root)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert [item.subject for item in items] == ["nodes/bad"]

    await believe(root, entry)
    async with asyncio.timeout(DEADLINE_S):
        while await violations(root):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_firmware_is_shown_with_the_chain_that_vouches_for_it(root: Served) -> None:
    now_ms = int(time.time() * 1000)
    factory = Authority("factory-ca", now_ms=now_ms)
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = factory.issue("line-1", key.public_key(), until_ms=now_ms + DAY_MS)
    believed = artifacts.TrustedSigner(
        name="factory-ca",
        root_certificate_pem=factory.pem,
        uses=[artifacts.SIGNER_USE_PAYLOAD],
    )
    await believe(root, believed)
    firmware = spec(
        payload_signature=artifacts.PayloadSignature(
            signature=key.sign(PAYLOAD, ec.ECDSA(hashes.SHA256())), certificates=der(leaf)
        )
    )
    firmware.kind = supply_chain_pb2.ARTIFACT_KIND_FIRMWARE
    firmware.component, firmware.version = "gw-100", "2.1.3"
    artifact = await create(root, firmware)
    assert artifact.verdict.state == VERIFIED
    hardware = supply_chain_pb2.HardwareIdentity(model="gw-100", firmware_baseline="2.1.0")
    await root.fleet.CreateNode(
        fleet.CreateNodeRequest(
            domain="global", node_id="n1", spec=node_pb2.NodeSpec(hardware=hardware)
        )
    )
    seen = observation_pb2.Inventory(firmware_version="2.1.3")
    await root.replica.journal().submit(
        lambda p: p.write("global", "nodes/n1", "inventory", seen, principal="node:n1")
    )

    node = (await root.fleet.GetNode(fleet.GetNodeRequest(name="nodes/n1"))).node

    shown = node.supply_chain.firmware
    assert (shown.version, shown.baseline_version) == ("2.1.3", "2.1.0")
    assert (shown.provenance, shown.provenance_ref) == ("signed-by-factory-ca", NAME)
    assert [each.subject for each in shown.signature_chain] == ["CN=line-1"]
