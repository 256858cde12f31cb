"""A controller learns of a seal that voids what it has in effect: its life ends, and the next one is without it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from controller.app import running
from controller.config_file import load_config
from controller.outdated import StateOutdated
from controller.replica import Replica
from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from federation.bounds import Foreknown
from federation.domains import DomainDeclaration, declare_domain
from federation.expulsion import seal_of
from federation.identifiers import Key
from federation.proposal import Proposal
from federation.state import State
from souverix.federation.v1 import authority_pb2
from souverix.fleet.v1 import domain_pb2
from tests.federation_fixture import MemoryController
from tests.unit.controller.live_controllers import until

ROOT = DomainPlan("global", kind="global", level="global", log="sqlite")
ZONE = "edge-a1"
POLICY = Key(ZONE, "policies/p1", "policy")


@pytest.fixture
def laid_out(tmp_path: Path) -> Iterator[LocalFederation]:
    with LocalFederation(tmp_path / "files", [ROOT]) as federation:
        yield federation


def declare(proposal: Proposal, zone: MemoryController) -> None:
    declaration = DomainDeclaration(
        domain=ZONE,
        spec=domain_pb2.DomainSpec(parent="global"),
        master_of_record=zone.name,
        level=authority_pb2.AUTHORITY_LEVEL_LOCAL,
        controller=zone.name,
        public_key=zone.signer.public_key,
    )
    term = proposal.state.authority.term_of("global")
    declare_domain(partial(proposal.write, principal="x"), declaration, term, proposal.wall_ms)


def seal(proposal: Proposal, zone: MemoryController) -> str:
    sealed = seal_of(proposal.state, zone.name, ZONE, {}, "taken over")
    proposal.write(ZONE, f"controllers/{zone.name}", "stream_sealed", sealed, principal="x")
    return "sealed"


def is_master_of_root(replica: Replica) -> bool:
    return replica.is_master and "global" in replica.state.authority.records


async def test_who_seals_is_answered_and_the_next_life_is_without_what_is_void(
    laid_out: LocalFederation,
) -> None:
    config = load_config(laid_out.config_path("global"))
    answers: list[str] = []
    zone = MemoryController("edge-a1-control", ZONE, laid_out._root)
    foreknown: Foreknown | None = None
    try:
        async with running(config) as replica:
            await until(lambda: is_master_of_root(replica), "mastership")
            journal = replica.journal()
            await journal.submit(lambda p: declare(p, zone))
            for commit in await replica.read_commits(0, 1 << 20):
                for run in commit.runs:
                    zone.receive("global-control", run)
            zone.write_policy(ZONE, "evil")
            [run] = [r for r in zone.commits[-1].runs if r.stream.controller == zone.name]
            await journal.submit(lambda p: p.receive(zone.name, run))
            assert replica.state.winner(POLICY) is not None
            answers.append((await journal.submit(lambda p: seal(p, zone))).value)
            await asyncio.Event().wait()
    except StateOutdated as outdated:
        foreknown = outdated.foreknown
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
    assert answers == ["sealed"]
    assert foreknown is not None

    async with running(config, foreknown) as replica:
        await until(lambda: is_master_of_root(replica), "mastership")
        state: State = replica.state
        assert state.winner(POLICY) is None
        assert state.grounds.stand
    # From now on what is kept beside the log says the same.
    async with running(config) as replica:
        await until(lambda: is_master_of_root(replica), "mastership")
        assert replica.state.winner(POLICY) is None
