"""A backlog that is not what the agent recorded: nothing of it takes effect, the evidence stays, the node may do
little, and an authorised person lets it out. Over a real stream, and by TLS.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from controller.lifecycle.stages import Transition
from controller.lifecycle.transitions import Asked, transit
from controller.nodelink.proof import chain_next, chain_start
from controller.twin.facts import body_of
from federation.chain import key_id_of
from federation.identifiers import Key
from federation.proposal import Proposal
from souverix.command.v1 import command_pb2
from souverix.fleet.v1 import lifecycle_pb2, node_pb2, return_pb2
from souverix.nodelink.v1 import nodelink_pb2
from tests.certificates import CertificateTree
from tests.federation_fixture import ROOT
from tests.unit.controller.nodelink.served_links import (
    DEADLINE_S,
    Directory,
    ScriptedAgent,
    Served,
    key_of,
    until,
)
from tests.unit.controller.nodelink.test_commands_served import issue, reached, read
from trust.certificates import fingerprint
from trust.identity import Kind

QUARANTINED = lifecycle_pb2.LIFECYCLE_PHASE_QUARANTINED
REPORTS = 4

Chunk = nodelink_pb2.ReplayChunk


@pytest.fixture
async def served(tmp_path: Path, certificate_tree: CertificateTree) -> AsyncIterator[Served]:
    async with Directory(tmp_path / "controller", certificate_tree).served() as controller:
        await controller.create_node("n1")
        yield controller


def fact(served: Served, aspect: str) -> Any:
    return served.body(ROOT, "nodes/n1", aspect)


def backlog(first: int = 1) -> list[nodelink_pb2.Report]:
    return [
        nodelink_pb2.Report(actual_state=node_pb2.ActualState(reported_version=f"v{number}"))
        for number in range(first, first + REPORTS)
    ]


async def returning(served: Served) -> ScriptedAgent:
    """The node's own agent, behind its lock, with its turn."""
    agent = ScriptedAgent(served, shown=served.leaf(Kind.NODE, "n1"))
    welcome = await agent.greet(backlog_reports=REPORTS, oldest_report=1)
    assert welcome.welcome.locked, welcome
    await agent.hear("replay_turn")
    return agent


def shown_by(agent: ScriptedAgent) -> x509.Certificate:
    assert agent.vouching is not None
    return agent.vouching.leaf


def rechained(agent: ScriptedAgent, chunk: Chunk) -> None:
    """What a forger without the key can do: the chain is right, the signature stays."""
    head = chain_start(agent.node, agent.source, 1)
    for raw in chunk.reports:
        head = chain_next(head, raw)
    chunk.chain_hash = head


def flip_a_bit(agent: ScriptedAgent, chunk: Chunk) -> None:
    raw = bytearray(chunk.reports[1])
    raw[-1] ^= 1
    chunk.reports[1] = bytes(raw)


def flip_a_bit_and_chain_anew(agent: ScriptedAgent, chunk: Chunk) -> None:
    flip_a_bit(agent, chunk)
    rechained(agent, chunk)


def reorder(agent: ScriptedAgent, chunk: Chunk) -> None:
    chunk.reports[1], chunk.reports[2] = chunk.reports[2], chunk.reports[1]
    rechained(agent, chunk)


def drop_one(agent: ScriptedAgent, chunk: Chunk) -> None:
    del chunk.reports[1]
    rechained(agent, chunk)


def cut_the_end(agent: ScriptedAgent, chunk: Chunk) -> None:
    del chunk.reports[2:]
    rechained(agent, chunk)


def sign_by_another_key(agent: ScriptedAgent, chunk: Chunk) -> None:
    chunk.CopyFrom(other_agent(agent, key_of("another"), agent.token).chunk(1, *backlog()))


def sign_over_another_session(agent: ScriptedAgent, chunk: Chunk) -> None:
    chunk.CopyFrom(other_agent(agent, agent.key, b"another session").chunk(1, *backlog()))


def come_from_the_future(agent: ScriptedAgent, chunk: Chunk) -> None:
    chunk.CopyFrom(agent.chunk(1_000_000, *backlog()))
    rechained(agent, chunk)


def skip_a_chunk(agent: ScriptedAgent, chunk: Chunk) -> None:
    chunk.number = 2


def hide_what_is_left(agent: ScriptedAgent, chunk: Chunk) -> None:
    chunk.remaining_reports = 7


def say_nothing(agent: ScriptedAgent, chunk: Chunk) -> None:
    chunk.reports[2] = nodelink_pb2.Report(sequence=3).SerializeToString()
    rechained(agent, chunk)


def say_what_is_no_report(agent: ScriptedAgent, chunk: Chunk) -> None:
    chunk.reports[2] = b"\xff\xff\xff"
    rechained(agent, chunk)


class _Other(ScriptedAgent):
    """Signs as an agent without a stream of its own."""

    def __init__(self, node: str, source: str, key: Any, token: bytes) -> None:
        self.node, self.source, self.key, self.token = node, source, key, token


def other_agent(agent: ScriptedAgent, key: Any, token: bytes) -> ScriptedAgent:
    return _Other(agent.node, agent.source, key, token)


TAMPERED = [
    (flip_a_bit, "CHAIN_BROKEN"),
    (flip_a_bit_and_chain_anew, "SIGNATURE_INVALID"),
    (reorder, "SEQUENCE_BROKEN"),
    (drop_one, "SEQUENCE_BROKEN"),
    (cut_the_end, "SIGNATURE_INVALID"),
    (sign_by_another_key, "SIGNATURE_INVALID"),
    (sign_over_another_session, "SIGNATURE_INVALID"),
    (come_from_the_future, "SEQUENCE_BROKEN"),
    (skip_a_chunk, "CHUNK_MISSING"),
    (hide_what_is_left, "SIGNATURE_INVALID"),
    (say_nothing, "REPORT_INVALID"),
    (say_what_is_no_report, "UNDECODABLE"),
]


@pytest.mark.parametrize(("tamper", "reason"), TAMPERED, ids=[t.__name__ for t, _ in TAMPERED])
async def test_a_tampered_backlog_has_no_effect_and_leaves_evidence(
    served: Served, tamper: Callable[[ScriptedAgent, Chunk], None], reason: str
) -> None:
    agent = await returning(served)
    chunk = agent.chunk(1, *backlog())
    tamper(agent, chunk)
    await agent.say(replay_chunk=chunk)
    assert (await agent.hear("isolated")).isolated.reason == reason

    assert fact(served, "actual_state") is None
    assert fact(served, "inventory") is None
    assert fact(served, "lifecycle").phase == QUARANTINED
    assert fact(served, "lifecycle").exit_condition
    found = fact(served, "return_incident")
    assert (found.kind, found.reason) == (return_pb2.INCIDENT_KIND_BACKLOG_REFUSED, reason)
    assert found.source.startswith("ipv4:127.0.0.1:")
    assert found.certificate == fingerprint(shown_by(agent))
    seen = found.backlog
    assert (seen.agent_source, seen.run) == (agent.source, agent.run)
    assert seen.key_id == key_id_of(agent.key.public_key)
    assert (seen.first_report, seen.reports_staged, seen.chunk) == (1, 0, chunk.number)
    assert seen.chunk_reports == len(chunk.reports)
    assert seen.chunk_digest == hashlib.sha256(b"".join(chunk.reports)).digest()
    assert seen.chain_claimed == chunk.chain_hash
    assert (seen.chain_computed == chunk.chain_hash) is (reason != "CHAIN_BROKEN")


async def test_what_was_in_order_before_a_violation_has_no_effect_either(served: Served) -> None:
    agent = await returning(served)
    whole = agent.chunk(1, *backlog())
    head = chain_start(agent.node, agent.source, 1)
    for raw in whole.reports[:2]:
        head = chain_next(head, raw)
    await agent.say(
        replay_chunk=Chunk(number=1, first_sequence=1, reports=whole.reports[:2], chain_hash=head)
    )
    await agent.say(
        replay_chunk=Chunk(
            number=2,
            first_sequence=3,
            reports=whole.reports[2:],
            chain_hash=bytes(32),
            signature=whole.signature,
        )
    )
    assert (await agent.hear("isolated")).isolated.reason == "CHAIN_BROKEN"
    assert fact(served, "actual_state") is None
    seen = fact(served, "return_incident").backlog
    assert (seen.reports_staged, seen.chunk, seen.chunk_first_report) == (2, 2, 3)
    assert seen.chain_computed == whole.chain_hash


async def test_an_isolated_node_may_look_until_it_is_released_and_then_returns_anew(
    served: Served,
) -> None:
    agent = await returning(served)
    chunk = agent.chunk(1, *backlog())
    flip_a_bit(agent, chunk)
    await agent.say(replay_chunk=chunk)
    await agent.hear("isolated")
    look = await issue(served, "n1")
    frame = (await agent.hear("command")).command
    assert frame.action.HasField("ping")
    await agent.say(
        result=nodelink_pb2.CommandResult(
            command_id=frame.command_id, state=command_pb2.DELIVERY_STATE_SUCCEEDED
        )
    )
    await reached(served, look.name, command_pb2.DELIVERY_STATE_SUCCEEDED, "n1")
    apply = command_pb2.Action(apply_config=command_pb2.ApplyConfig(document={}))
    change = await issue(served, "n1", action=apply)
    held = command_pb2.Delivery()
    async with asyncio.timeout(DEADLINE_S):
        while held.reason != "NODE_ISOLATED":
            await asyncio.sleep(0.01)
            (held,) = (await read(served, change.name)).deliveries
    assert held.attempts == 0
    await agent.report_version(1, "smuggled")
    assert (await agent.hear("goodbye")).goodbye.reason == nodelink_pb2.LINK_END_PROTOCOL_ERROR

    again = ScriptedAgent(served, shown=served.leaf(Kind.NODE, "n1"))
    welcome = await again.greet(backlog_reports=REPORTS, oldest_report=1)
    assert welcome.welcome.locked
    assert (await again.hear()).isolated.reason == "BACKLOG_REFUSED"

    def release(proposal: Proposal) -> None:
        held = body_of(proposal, Key(ROOT, "nodes/n1", "lifecycle"))
        asked = Asked(Transition.RELEASE_FROM_QUARANTINE, "looked at", decided_by="user:admin")
        entered = transit(held, asked, proposal.wall_ms)
        proposal.write(ROOT, "nodes/n1", "lifecycle", entered, principal="user:admin")

    await served.submit(release)
    assert (await again.hear("goodbye")).goodbye.reason == nodelink_pb2.LINK_END_RELEASED
    assert fact(served, "actual_state") is None
    await until(lambda: not len(served.service.links))

    true = await returning(served)
    await true.say(replay_chunk=true.chunk(1, *backlog()))
    assert await true.hear("lock_released")
    assert fact(served, "actual_state").reported_version == f"v{REPORTS}"
    resolved = await until(
        lambda: (
            fact(served, "return_incident").HasField("resolve_time")
            and fact(served, "return_incident")
        )
    )
    assert resolved.backlog.chunk_digest
