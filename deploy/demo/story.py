"""The story: its steps in order, how each went and how long it took. Owns the order; the steps own what happens."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import grpc

from deploy.demo.airgap import cross_the_gap
from deploy.demo.attestation import attest
from deploy.demo.command import command_from_global
from deploy.demo.components import who_runs_it
from deploy.demo.display import duration
from deploy.demo.drift import drift_and_heal
from deploy.demo.enrolling import enrol
from deploy.demo.handover import hand_over
from deploy.demo.impostor import refuse_impostors
from deploy.demo.node_return import go_off_and_return
from deploy.demo.partition import cut_off, write_on_both_sides
from deploy.demo.reconciliation import heal_and_converge, restore_and_verify
from deploy.demo.revocation import revoke
from deploy.demo.roles import hold_to_roles
from deploy.demo.stage import Stage, StepFailed
from deploy.demo.start import start
from deploy.demo.syncing import sync_opportunistically
from deploy.demo.takeover import kill_the_master
from deploy.demo.tampering import refuse_a_tampered_backlog
from souverixctl.errors import Refused


@dataclass(frozen=True, slots=True)
class Step:
    """One step; `play` returns the sentence that sums it up."""

    title: str
    about: str
    play: Callable[[Stage], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a step went."""

    number: int
    title: str
    ok: bool
    summary: str
    took_s: float


STEPS: Sequence[Step] = (
    Step(
        "A federation starts",
        "Global, two regions, three edge zones, an island: each with its own log, each deciding for itself.",
        start,
    ),
    Step(
        "Who may do what",
        "Everybody has a certificate; what its bearer may do, roles say. Without one, nothing.",
        hold_to_roles,
    ),
    Step(
        "A machine enrols",
        "A one-time token brings a new machine its certificate; what comes with the same token again is refused.",
        enrol,
    ),
    Step(
        "A command from global to an edge node, and back",
        "Issued at global, it travels down the tree to the agent of this host; its answer travels up.",
        command_from_global,
    ),
    Step(
        "A node drifts, and is set right",
        "Zone a2 declares what its node does not have; field by field it shows at global, until a command heals it.",
        drift_and_heal,
    ),
    Step(
        "A node goes off, and returns",
        "It works on without a link and records; back, it replays first, and only then takes new commands.",
        go_off_and_return,
    ),
    Step(
        "Impostors are refused",
        "Two agents call themselves by the node's name: one by another node's certificate, one by a root of its own.",
        refuse_impostors,
    ),
    Step(
        "A certificate is revoked",
        "The one that the first impostor showed: the stream that stands on it ends, and who calls by it is raised.",
        revoke,
    ),
    Step(
        "A tampered backlog is quarantined",
        "While a node is away, somebody alters on its disk what it recorded. Its return is refused as a whole.",
        refuse_a_tampered_backlog,
    ),
    Step(
        "The link of a zone is cut",
        "Zone a1 loses its region. Both sides say what they do not know; the zone works on.",
        cut_off,
    ),
    Step(
        "Both sides write one policy",
        "The zone is its master-of-record; the region writes under its autonomy, optimistically.",
        write_on_both_sides,
    ),
    Step(
        "The link is back, both converge",
        "What was written apart is merged: one value wins everywhere, the other is kept and recorded.",
        heal_and_converge,
    ),
    Step(
        "The loser is restored, the audit verified",
        "The zone's administrator, who now sees both values, takes the other one; nothing of it is unrecorded.",
        restore_and_verify,
    ),
    Step(
        "A zone that syncs when it can",
        "Zone b1 closes its link once both sides are level, and opens it when asked.",
        sync_opportunistically,
    ),
    Step(
        "An island that never has a link",
        "A command reaches it by a file, and its result returns by another; both are signed, and carried by hand.",
        cross_the_gap,
    ),
    Step(
        "A node attests what it runs",
        "The island expects its node to stay as it is; a file that somebody changes is found out, and quarantines it.",
        attest,
    ),
    Step(
        "Who runs it?",
        "Agents tell what their hosts are made of; asked at global, the answer names every node with a package.",
        who_runs_it,
    ),
    Step(
        "A master is killed under writes",
        "kill -9 for the master of region a while clients write; its second replica takes over.",
        kill_the_master,
    ),
    Step(
        "Authority is handed over",
        "The region takes zone a2 over from its controller, as planned: release, then claim.",
        hand_over,
    ),
)


async def play(stage: Stage) -> list[Outcome]:
    """Plays the steps until one fails."""
    outcomes = []
    for number, step in enumerate(STEPS, 1):
        stage.display.step(number, step.title, step.about)
        began_s = time.monotonic()
        try:
            summary, ok = await step.play(stage), True
        except StepFailed as error:
            summary, ok = str(error), False
        except Refused as error:
            method = error.method.rpartition(".")[2]
            summary = f"{method} at {error.address}: {error.code.name}: {error.message}"
            ok = False
        except grpc.RpcError as error:
            summary, ok = f"a call failed: {error}", False
        outcomes.append(Outcome(number, step.title, ok, summary, time.monotonic() - began_s))
        if not ok:
            stage.display.failed("\n".join([summary, *stage.troubles()]))
            break
    return outcomes


def show_summary(stage: Stage, outcomes: Sequence[Outcome]) -> None:
    """A line for each step."""
    stage.display.blank()
    rows = [
        (
            str(outcome.number),
            outcome.title,
            "ok" if outcome.ok else "failed",
            duration(outcome.took_s),
            outcome.summary.splitlines()[0],
        )
        for outcome in outcomes
    ]
    rows += [
        (str(number), step.title, "not played", "", "")
        for number, step in enumerate(STEPS, 1)
        if number > len(outcomes)
    ]
    total_s = sum(outcome.took_s for outcome in outcomes)
    rows.append(("", "all", "", duration(total_s), ""))
    stage.display.table(("", "STEP", "", "TIME", "WHAT WAS SEEN"), rows)


def succeeded(outcomes: Sequence[Outcome]) -> bool:
    """Tells whether every step was played and went as it must."""
    return len(outcomes) == len(STEPS) and all(outcome.ok for outcome in outcomes)
