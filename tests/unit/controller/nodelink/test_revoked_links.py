"""Nodes and relays whose certificates are revoked while they are linked, over real mutual TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from controller.revocation.targets import ASPECT, subject_of
from souverix.nodelink.v1 import nodelink_pb2
from souverix.trust.v1 import revocation_pb2
from tests.certificates import CertificateTree
from tests.federation_fixture import ROOT
from tests.unit.controller.nodelink.served_links import (
    Directory,
    ScriptedAgent,
    ScriptedRelay,
    Served,
    until,
)
from trust.files import Credentials
from trust.identity import Kind


class Guarded:
    """A controller by mutual TLS, with the nodes n1 and n2."""

    def __init__(self, served: Served, tree: CertificateTree) -> None:
        self.served = served
        self.tree = tree

    def leaf(self, name: str, kind: Kind = Kind.NODE, at: datetime | None = None) -> Credentials:
        return self.tree.leaf(ROOT, kind, name, at=at).read()

    async def revoke(self, principal: str) -> None:
        """Revokes what an identity has so far."""
        spec = revocation_pb2.RevocationSpec(reason="lost")
        spec.certificates.identity.principal = principal
        before = self.tree.made_at + timedelta(seconds=1)
        spec.certificates.identity.issued_before.FromDatetime(before.replace(microsecond=0))
        subject = subject_of(spec.certificates)
        await self.served.submit(
            lambda p: p.write(ROOT, subject, ASPECT, spec, principal="user:admin")
        )

    def agent(self, node: str, shown: Credentials) -> ScriptedAgent:
        return ScriptedAgent(self.served, node, shown=shown)

    def audited(self) -> set[tuple[str, str]]:
        return {
            (item.write.body().principal, item.write.body().reason)
            for item in self.served.replica.state.audits
        }


@pytest.fixture
async def guarded(tmp_path: Path, certificate_tree: CertificateTree) -> AsyncIterator[Guarded]:
    directory = Directory(tmp_path / "controller", certificate_tree)
    async with directory.served() as served:
        for node in ("n1", "n2"):
            await served.create_node(node)
        yield Guarded(served, certificate_tree)


async def ending(call: Any) -> grpc.aio.AioRpcError:
    """How a stream ends."""
    with pytest.raises(grpc.aio.AioRpcError) as ended:  # noqa: PT012 frames may come before
        while await call.read() is not grpc.aio.EOF:
            pass
    return ended.value


async def test_a_revoked_nodes_stream_ends_and_a_new_certificate_lets_it_in(
    guarded: Guarded,
) -> None:
    old = guarded.leaf("n1")
    agent, other = guarded.agent("n1", old), guarded.agent("n2", guarded.leaf("n2"))
    assert (await agent.greet()).HasField("welcome")
    assert (await other.greet()).HasField("welcome")
    await guarded.revoke("node:n1")
    ended = await ending(agent.call)
    assert ended.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "was revoked" in str(ended.details())
    await other.say(heartbeat=nodelink_pb2.AgentHeartbeat(ping_ms=1))
    assert await other.hear("heartbeat_ack")
    again = guarded.agent("n1", old)
    assert (await ending(again.call)).code() is grpc.StatusCode.UNAUTHENTICATED
    (knock,) = guarded.served.replica.knocks.recent()
    assert knock.principal == "node:n1"
    await until(lambda: ("node:n1", "CERTIFICATE_REVOKED") in guarded.audited())
    renewed = guarded.agent("n1", guarded.leaf("n1", at=datetime.now(UTC) + timedelta(seconds=2)))
    assert (await renewed.greet()).HasField("welcome")


async def test_a_node_behind_a_relay_is_held_to_its_own_certificate(guarded: Guarded) -> None:
    relay = ScriptedRelay(guarded.served, shown=guarded.leaf("relay-1", Kind.RELAY))
    await relay.greet()
    old = guarded.leaf("n1")
    assert (await relay.bring(0, "n1", vouching=old)).HasField("welcome")
    assert (await relay.bring(1, "n2", vouching=guarded.leaf("n2"))).HasField("welcome")

    await guarded.revoke("node:n1")

    said = (await relay.hear_node(0)).response.goodbye
    assert said.reason == nodelink_pb2.LINK_END_IDENTITY
    assert (await relay.hear_node(0)).HasField("closed")
    await relay.close(0)
    again = await relay.bring(0, "n1", vouching=old)
    assert again.goodbye.reason == nodelink_pb2.LINK_END_IDENTITY
    assert "was revoked" in again.goodbye.message
    assert "n2" in {link.node for link in guarded.served.service.links}
    await until(
        lambda: [knock.principal for knock in guarded.served.replica.knocks.recent()] == ["node:n1"]
    )


async def test_a_revoked_relay_is_gone_with_all_that_it_carries(guarded: Guarded) -> None:
    shown = guarded.leaf("relay-1", Kind.RELAY)
    relay = ScriptedRelay(guarded.served, shown=shown)
    await relay.greet()
    assert (await relay.bring(0, "n1", vouching=guarded.leaf("n1"))).HasField("welcome")
    await guarded.revoke("relay:relay-1")
    assert (await ending(relay.call)).code() is grpc.StatusCode.UNAUTHENTICATED
    await until(lambda: not guarded.served.relays.carried())
    await until(lambda: not len(guarded.served.service.links))
    again = ScriptedRelay(guarded.served, shown=shown)
    assert (await ending(again.call)).code() is grpc.StatusCode.UNAUTHENTICATED
