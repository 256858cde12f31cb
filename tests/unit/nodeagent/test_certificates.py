"""An agent's certificate: whose it must be, what it demands of servers, and when a renewed one is put to use."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from nodeagent import certificates
from nodeagent.certificates import AgentCertificate, certificate_of
from nodeagent.errors import SettingsInvalid
from nodeagent.logs import EventLog
from nodeagent.settings import tls_files
from tests.certificates import TRUST_DOMAIN, CertificateTree, authority_below
from trust.channels import ListenerTls
from trust.files import Credentials, ReloadedCredentials, TrustFiles
from trust.identity import Kind

ZONE = f"edge-zone-a1.region-a.global.{TRUST_DOMAIN}"


@pytest.fixture
def files(certificate_tree: CertificateTree, tmp_path: Path) -> TrustFiles:
    return certificate_tree.leaf("edge-zone-a1", Kind.NODE, "n1", into=tmp_path / "n1")


class Shown:
    """What a gRPC context says of an agent."""

    def __init__(self, credentials: Credentials | None) -> None:
        self._credentials = credentials

    def auth_context(self) -> dict[str, list[bytes]]:
        if self._credentials is None:
            return {}
        return {"x509_pem_cert": [self._credentials.chain_pem]}


def test_the_names_that_are_demanded_follow_from_the_own_chain(files: TrustFiles) -> None:
    certificate = certificate_of(files, "n1", [Kind.NODE])
    assert certificate.to_nodes_service().server_name == f"_nodes.{ZONE}"
    assert certificate.to_controller().server_name == ZONE


def test_another_ones_certificate_is_refused_at_the_start(files: TrustFiles) -> None:
    for name, kind in (("n2", Kind.NODE), ("n1", Kind.RELAY)):
        with pytest.raises(SettingsInvalid, match="the certificate is of"):
            certificate_of(files, name, [kind])
    files.certificate.unlink()
    with pytest.raises(SettingsInvalid, match=r"identity\.pem"):
        certificate_of(files, "n1", [Kind.NODE])


def test_settings_name_a_directory_or_each_file(tmp_path: Path) -> None:
    assert tls_files({}) is None
    assert tls_files({"tls": str(tmp_path)}) == TrustFiles.in_directory(tmp_path)
    named = {"certificate": "c.pem", "key": "k.pem", "roots": "r.pem"}
    assert tls_files({"tls": named}) == TrustFiles(Path("c.pem"), Path("k.pem"), Path("r.pem"))
    for wrong in ({"key": "k.pem"}, {**named, "more": "x"}):
        with pytest.raises(SettingsInvalid, match="tls names"):
            tls_files({"tls": wrong})


def test_a_relay_takes_the_agents_of_its_own_domain_only(
    certificate_tree: CertificateTree, tmp_path: Path
) -> None:
    relay = AgentCertificate(
        certificate_tree.leaf("edge-zone-a1", Kind.RELAY, "r1", into=tmp_path / "r1"),
        EventLog("r1"),
    )

    def judged(domain: str, name: str, kind: Kind = Kind.NODE, **more: Any) -> str:
        return relay.judge_agent(
            Shown(certificate_tree.leaf(domain, kind, name, **more).read()), "n1"
        )

    assert judged("edge-zone-a1", "n1") == ""
    assert judged("edge-zone-a1", "r1", Kind.RELAY) == ""
    assert "node:n2" in judged("edge-zone-a1", "n2")
    assert "user:n1" in judged("edge-zone-a1", "n1", Kind.USER)
    for domain in ("edge-zone-a2", "region-a"):
        assert "not issued by a known authority" in judged(domain, "n1")
    sibling = certificate_tree.authorities["edge-zone-a2"]
    false = authority_below(sibling, "edge-zone-a1", certificate_tree.made_at)
    assert "not issued by a known authority" in judged("edge-zone-a1", "n1", authority=false)
    assert relay.judge_agent(Shown(None), "n1") == "no certificate was shown"


async def test_a_renewal_counts_once_the_other_side_takes_it(
    certificate_tree: CertificateTree, files: TrustFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "LOOK_S", 0.01)
    server = grpc.aio.server()
    tls = ListenerTls(ReloadedCredentials(certificate_tree.controller("edge-zone-a1")))
    port = server.add_secure_port("127.0.0.1:0", tls.credentials())
    await server.start()
    certificate = certificate_of(files, "n1", [Kind.NODE])
    used = certificate.to_nodes_service()
    waiting = asyncio.create_task(certificate.renewed(used, f"127.0.0.1:{port}", ()))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    certificate_tree.leaf("edge-zone-a1", Kind.NODE, "n1", into=files.certificate.parent)
    async with asyncio.timeout(10):
        await waiting
    assert certificate.to_nodes_service() != used
    await server.stop(0)


async def test_a_renewal_that_nobody_takes_is_not_put_to_use(
    certificate_tree: CertificateTree, files: TrustFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "LOOK_S", 0.01)
    monkeypatch.setattr(certificates, "PROOF_TIMEOUT_S", 0.2)
    certificate = certificate_of(files, "n1", [Kind.NODE])
    used = certificate.to_nodes_service()
    certificate_tree.leaf("edge-zone-a1", Kind.NODE, "n1", into=files.certificate.parent)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await certificate.renewed(used, "127.0.0.1:1", ())
