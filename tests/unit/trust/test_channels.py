"""Channels and listeners over real sockets: who gets through, and which certificate is shown."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509

from tests.certificates import CertificateTree
from trust.authority import Authority
from trust.channels import ClientTls, ListenerTls, open_channel, served_certificate
from trust.files import Credentials, ReloadedCredentials, TrustFiles
from trust.identity import Kind

METHOD = "/trust.Test/Who"
PATIENCE_S = 10.0


async def _who(_: bytes, context: Any) -> bytes:
    found: bytes = context.auth_context().get("peer_spiffe_id", [b"nobody"])[0]
    return found


@asynccontextmanager
async def listening(
    files: TrustFiles, *, demand: bool = True
) -> AsyncIterator[tuple[str, ReloadedCredentials]]:
    held = ReloadedCredentials(files)
    server = grpc.aio.server()
    handlers: dict[str, Any] = {"Who": grpc.unary_unary_rpc_method_handler(_who)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("trust.Test", handlers),))
    tls = ListenerTls(held, demand_certificates=demand)
    port = server.add_secure_port("127.0.0.1:0", tls.credentials())
    await server.start()
    try:
        yield f"127.0.0.1:{port}", held
    finally:
        await server.stop(0)


async def ask(address: str, tls: ClientTls | None) -> str:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with open_channel(address, options, tls) as channel:
        who: Any = channel.unary_unary(METHOD)
        answer: bytes = await who(b"", timeout=PATIENCE_S)
        return answer.decode()


async def refusal_of(address: str, tls: ClientTls | None) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ask(address, tls)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    return refused.value.details() or ""


@pytest.fixture
def node(certificate_tree: CertificateTree) -> Credentials:
    return certificate_tree.leaf("edge-zone-a1", Kind.NODE, "n1").read()


async def test_each_side_knows_the_other(
    certificate_tree: CertificateTree, node: Credentials
) -> None:
    async with listening(certificate_tree.controller("edge-zone-a1")) as (address, _):
        for name in (node.controller_name(), None):
            assert await ask(address, ClientTls.of(node, name)) == (
                "spiffe://souverix.test/edge-zone-a1/node/n1"
            )


async def test_a_controller_of_another_domain_is_not_the_one_wanted(
    certificate_tree: CertificateTree, node: Credentials
) -> None:
    for domain in ("edge-zone-a2", "region-a"):
        async with listening(certificate_tree.controller(domain)) as (address, _):
            said = await refusal_of(address, ClientTls.of(node, node.controller_name()))
            assert "Hostname Verification" in said


async def test_a_sibling_cannot_make_itself_the_controller_of_another_domain(
    certificate_tree: CertificateTree, node: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even with its authority in hostile hands: the certificate of that authority does not permit the name."""
    monkeypatch.setattr(Authority, "_check_permitted", lambda *_: None)
    false_name = x509.DNSName(node.controller_name())
    monkeypatch.setattr(Authority, "_server_names", lambda *_: [false_name])
    sibling = certificate_tree.leaf("edge-zone-a2", Kind.CONTROLLER, "edge-zone-a1-control")
    async with listening(sibling) as (address, _):
        said = await refusal_of(address, ClientTls.of(node, node.controller_name()))
        assert "permitted subtree violation" in said


async def test_who_shows_no_certificate_or_one_of_others_does_not_get_in(
    certificate_tree: CertificateTree, node: Credentials, tmp_path: Path
) -> None:
    stranger = CertificateTree(tmp_path, {"global": "", "region-a": "global"})
    alien = stranger.leaf("region-a", Kind.USER, "admin").read()
    mixed = Credentials(alien.key, alien.certificates, node.roots)
    known = certificate_tree.leaf("region-a", Kind.USER, "alice").read()
    async with listening(certificate_tree.controller("region-a")) as (address, _):
        name = node.controller_name(levels_up=1)
        await refusal_of(address, None)
        await refusal_of(address, ClientTls.of(mixed, name))
        assert await ask(address, ClientTls.of(known, name))


async def test_an_expired_certificate_does_not_get_in(
    certificate_tree: CertificateTree, node: Credentials
) -> None:
    brief = certificate_tree.leaf(
        "region-a", Kind.USER, "alice", life=timedelta(microseconds=1)
    ).read()
    async with listening(certificate_tree.controller("region-a")) as (address, _):
        await refusal_of(address, ClientTls.of(brief, node.controller_name(levels_up=1)))


async def test_a_listener_that_demands_none_serves_those_without(
    certificate_tree: CertificateTree, node: Credentials
) -> None:
    files = certificate_tree.controller("edge-zone-a1")
    async with listening(files, demand=False) as (address, _):
        credentials = grpc.ssl_channel_credentials(root_certificates=node.roots_pem)
        options = [("grpc.ssl_target_name_override", node.controller_name())]
        async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
            who: Any = channel.unary_unary(METHOD)
            assert await who(b"", timeout=PATIENCE_S) == b"nobody"


async def test_a_renewed_certificate_is_shown_at_once_and_a_broken_file_changes_nothing(
    certificate_tree: CertificateTree, node: Credentials
) -> None:
    files = certificate_tree.controller("edge-zone-a1")
    async with listening(files) as (address, held):
        tls = ClientTls.of(node, node.controller_name())
        async with open_channel(address, [], tls) as standing:
            who: Any = standing.unary_unary(METHOD)
            assert await who(b"", timeout=PATIENCE_S)
            first = held.current.leaf
            assert await asyncio.to_thread(served_certificate, address) == first
            certificate_tree.leaf(
                "edge-zone-a1", Kind.CONTROLLER, "a1", into=files.certificate.parent
            )
            assert held.reload()
            renewed = await asyncio.to_thread(served_certificate, address)
            assert renewed == held.current.leaf != first
            assert await who(b"", timeout=PATIENCE_S), "a standing connection stays"
            assert await ask(address, tls)
