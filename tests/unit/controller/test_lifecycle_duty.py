"""Nodes are moved on by evidence: few commits for many, settling, restarts, operators who are quicker."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from controller.journal import JournalClosed
from controller.lifecycle.stages import Stage, Transition, stage_of
from controller.lifecycle.transitions import Asked, transit
from controller.lifecycle_duty import LifecycleMoves
from controller.lifecycle_settings import LifecycleDomainSection, LifecycleSection
from federation.identifiers import Key
from federation.proposal import Proposal
from souverix.fleet.v1 import connectivity_pb2, domain_pb2, lifecycle_pb2, node_pb2
from tests.federation_fixture import ROOT
from tests.unit.controller.services.served import Served, root_served

DEADLINE_S = 20.0
AT_ONCE = LifecycleSection(degrade_after_s=0.05, recover_after_s=0.05)
PATIENT = LifecycleSection(degrade_after_s=3600, recover_after_s=3600)
LIVE = connectivity_pb2.CONNECTIVITY_MODE_LIVE
REPLAYING = connectivity_pb2.CONNECTIVITY_MODE_REPLAYING
OK = node_pb2.RUNTIME_HEALTH_OK
DEGRADED = node_pb2.RUNTIME_HEALTH_DEGRADED


@pytest.fixture
async def controller(tmp_path: Path) -> AsyncIterator[Served]:
    async with root_served(tmp_path) as served:
        yield served


@contextlib.asynccontextmanager
async def moving(controller: Served, section: LifecycleSection) -> AsyncIterator[None]:
    """The duty, run under the present mastership."""
    controller.replica.config = dataclasses.replace(controller.replica.config, lifecycle=section)
    duty = LifecycleMoves(controller.replica)
    task = asyncio.create_task(duty.run(controller.replica.journal()))
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def submit(controller: Served, *decisions: Callable[[Proposal], None]) -> None:
    """Commits what all of them draft, in one commit."""

    def decide(proposal: Proposal) -> None:
        for each in decisions:
            each(proposal)

    await controller.replica.journal().submit(decide)


def create(proposal: Proposal, node: str) -> None:
    provisioning = lifecycle_pb2.LifecycleState(phase=Stage.PROVISIONING.phase)
    for aspect, body in (
        ("existence", domain_pb2.Existence(exists=True)),
        ("placement", node_pb2.Placement(domain=ROOT, epoch=1)),
        ("lifecycle", provisioning),
    ):
        proposal.write(ROOT, f"nodes/{node}", aspect, body, principal="user:test")


def link(proposal: Proposal, node: str, mode: Any = LIVE) -> None:
    state = connectivity_pb2.LinkState(mode=mode, reason="first_contact")
    proposal.write(ROOT, f"nodes/{node}", "link_state", state, principal="controller:test")


def report(proposal: Proposal, node: str, health: Any = OK) -> None:
    state = node_pb2.ActualState(runtime=node_pb2.RuntimeState(health=health))
    proposal.write(ROOT, f"nodes/{node}", "actual_state", state, principal=f"node:{node}")


def appear(proposal: Proposal, node: str, health: Any = OK) -> None:
    create(proposal, node)
    link(proposal, node)
    report(proposal, node, health)


def move(proposal: Proposal, node: str, transition: Transition, **brought: Any) -> None:
    key = Key(ROOT, f"nodes/{node}", "lifecycle")
    winner = proposal.winner(key)
    asked = Asked(transition, "by hand", decided_by="user:alice", **brought)
    entered = transit(winner.body() if winner else None, asked, proposal.wall_ms)
    proposal.write(*key, entered, principal="user:alice")


def stage(controller: Served, node: str = "n1") -> Stage:
    winner = controller.replica.state.winner(Key(ROOT, f"nodes/{node}", "lifecycle"))
    return stage_of(winner.body() if winner is not None else None)


def went(controller: Served, node: str = "n1") -> list[Stage]:
    writes = controller.replica.histories.of(f"nodes/{node}", "lifecycle")
    return [stage_of(write.body()) for write in writes]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 what is waited for has no event
            await asyncio.sleep(0.01)


async def passed(controller: Served) -> None:
    """Waits until the duty has looked at all that was written before: a newcomer written now is active."""
    node = f"witness-{controller.replica.state.next_offset}"
    await submit(controller, lambda p: appear(p, node))
    await until(lambda: stage(controller, node) is Stage.ACTIVE)


async def test_a_newcomer_is_enrolled_when_admitted_and_active_when_it_reports(
    controller: Served,
) -> None:
    async with moving(controller, PATIENT):
        await submit(controller, lambda p: create(p, "n1"))
        await passed(controller)
        assert stage(controller) is Stage.PROVISIONING
        await submit(controller, lambda p: link(p, "n1"))
        await until(lambda: stage(controller) is Stage.ENROLLED)
        await submit(controller, lambda p: report(p, "n1", DEGRADED))
        await passed(controller)
        assert stage(controller) is Stage.ENROLLED
        await submit(controller, lambda p: report(p, "n1"))
        await until(lambda: stage(controller) is Stage.ACTIVE)
    last = controller.replica.histories.of("nodes/n1", "lifecycle")[-1]
    assert last.principal == last.body().decided_by == "controller:global-control"
    assert last.body().reason == "its agent reports: health OK"


async def test_a_thousand_nodes_are_moved_in_few_commits(controller: Served) -> None:
    nodes = [f"n{number}" for number in range(1000)]
    async with moving(controller, PATIENT):
        for first in range(0, 1000, 250):
            some = nodes[first : first + 250]
            await submit(controller, *(partial(appear, node=node) for node in some))
        written = controller.replica.state.next_offset
        await until(lambda: all(stage(controller, node) is Stage.ACTIVE for node in nodes))
        assert controller.replica.state.next_offset - written <= 12
    assert went(controller, "n7") == [Stage.PROVISIONING, Stage.ENROLLED, Stage.ACTIVE]


async def test_health_degrades_a_node_and_brings_it_back(controller: Served) -> None:
    async with moving(controller, AT_ONCE):
        await submit(controller, lambda p: appear(p, "n1"))
        await until(lambda: stage(controller) is Stage.ACTIVE)
        await submit(controller, lambda p: report(p, "n1", DEGRADED))
        await until(lambda: stage(controller) is Stage.DEGRADED)
        await submit(controller, lambda p: report(p, "n1"))
        await until(lambda: stage(controller) is Stage.ACTIVE)


async def test_health_that_does_not_last_or_is_replayed_moves_nothing(controller: Served) -> None:
    async with moving(controller, PATIENT):
        await submit(controller, lambda p: appear(p, "n1"))
        await until(lambda: stage(controller) is Stage.ACTIVE)
        await submit(controller, lambda p: report(p, "n1", DEGRADED))
        await passed(controller)
    async with moving(controller, AT_ONCE):
        await submit(
            controller, lambda p: link(p, "n1", REPLAYING), lambda p: report(p, "n1", DEGRADED)
        )
        await submit(controller, lambda p: report(p, "n1"), lambda p: link(p, "n1"))
        await passed(controller)
    assert went(controller) == [Stage.PROVISIONING, Stage.ENROLLED, Stage.ACTIVE]


async def test_the_next_master_finds_what_this_one_left(controller: Served) -> None:
    await submit(controller, lambda p: appear(p, "n1"))
    async with moving(controller, PATIENT):
        await until(lambda: stage(controller) is Stage.ACTIVE)
        await submit(controller, lambda p: report(p, "n1", DEGRADED))
        await passed(controller)
        assert stage(controller) is Stage.ACTIVE
    async with moving(controller, AT_ONCE):
        await until(lambda: stage(controller) is Stage.DEGRADED)


async def test_a_superseded_master_moves_nothing(controller: Served) -> None:
    await submit(controller, lambda p: appear(p, "n1"))
    journal = controller.replica.journal()
    await journal.close()
    before = controller.replica.state.next_offset
    with pytest.raises(JournalClosed):
        await journal.submit(lambda p: None)
    task = asyncio.create_task(LifecycleMoves(controller.replica).run(journal))
    done, _ = await asyncio.wait([task], timeout=0.5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not done
    assert controller.replica.state.next_offset == before


async def test_what_people_decide_stands(controller: Served) -> None:
    async with moving(controller, AT_ONCE):
        await submit(controller, *(partial(appear, node=n) for n in ("n1", "n2", "n3")))
        await until(lambda: all(stage(controller, n) is Stage.ACTIVE for n in ("n1", "n2", "n3")))
        end_ms = time.time_ns() // 1_000_000 + 3_600_000

        def decide(proposal: Proposal) -> None:
            move(proposal, "n1", Transition.ENTER_MAINTENANCE, expire_ms=end_ms)
            move(proposal, "n2", Transition.QUARANTINE, exit_condition="new seal")
            move(proposal, "n3", Transition.DEGRADE)
            for node in ("n1", "n2"):
                report(proposal, node, DEGRADED)
            report(proposal, "n3")

        await submit(controller, decide)
        await passed(controller)
        await passed(controller)
    assert stage(controller, "n1") is Stage.MAINTENANCE_SCHEDULED
    assert stage(controller, "n2") is Stage.QUARANTINED
    assert stage(controller, "n3") is Stage.DEGRADED


async def test_a_domain_may_leave_enrolment_to_people(controller: Served) -> None:
    own = LifecycleDomainSection(ROOT, enrolment="by-operator")
    async with moving(controller, LifecycleSection(domains=(own,))):
        await submit(controller, lambda p: appear(p, "n1"))
        await submit(
            controller, lambda p: appear(p, "n2"), lambda p: move(p, "n2", Transition.ENROL)
        )
        await until(lambda: stage(controller, "n2") is Stage.ACTIVE)
    assert stage(controller) is Stage.PROVISIONING
