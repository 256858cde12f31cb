"""Draws the state machines from their transition tables into `docs/state-machines.md`.

Owns the form of that page; states, triggers and reasons are the tables' own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from controller.attestation import states
from controller.command import delivery
from controller.connectivity import peer_links, spectrum
from controller.enrolment import stages as enrolment
from controller.lifecycle import stages
from controller.nodelink import session
from federation import session_phases
from nodeagent import ledger, link

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "docs" / "state-machines.md"

HEAD = """\
# State machines

Written by `make docs` from the transition tables in the code; change those, not this. A trigger without an edge in
a state changes nothing, except in a sync session: there a frame out of place ends the session.
"""


@dataclass(frozen=True, slots=True)
class Move:
    """One row of a transition table."""

    before: str
    trigger: str
    after: str
    why: str


@dataclass(frozen=True, slots=True)
class Machine:
    """One state machine as it is shown."""

    title: str
    module: str
    about: str
    start: str
    moves: Sequence[Move]
    #: Lines shown below the tables.
    more: Sequence[str] = ()

    def final_states(self) -> list[str]:
        """States that nothing leads out of."""
        left = {move.before for move in self.moves if move.before != move.after}
        return [s for s in dict.fromkeys(move.after for move in self.moves) if s not in left]


def machines() -> list[Machine]:
    """All of them, with their tables read."""
    return [
        Machine(
            "Sync session",
            "federation/session_phases.py",
            "One session between a child and its parent, seen from either side.",
            session_phases.Phase.GREETING.name,
            _moves(session_phases.TRANSITIONS),
            _frames_in_place(),
        ),
        Machine(
            "Connectivity of a node",
            "controller/connectivity/spectrum.py",
            "A node's place on the connectivity spectrum, as the controller that delivers to it finds it.",
            spectrum.Mode.UNKNOWN.name,
            _moves(spectrum.TRANSITIONS),
        ),
        Machine(
            "Link between controllers",
            "controller/connectivity/peer_links.py",
            "A link between a controller and its parent or child, as one end records it for those beyond.",
            peer_links.PeerLinkState.UP.name,
            _moves(peer_links.TRANSITIONS),
        ),
        Machine(
            "Lifecycle of a node",
            "controller/lifecycle/stages.py",
            "A node's life, as its master-of-record decides it.",
            stages.Stage.PROVISIONING.name,
            _moves(stages.TRANSITIONS),
        ),
        Machine(
            "Attestation of a node",
            "controller/attestation/states.py",
            "What is known of a node's integrity, as the controller that challenges it judges it.",
            states.Integrity.NEVER_ATTESTED.name,
            _moves(states.TRANSITIONS),
        ),
        Machine(
            "Enrolment of a machine",
            "controller/enrolment/stages.py",
            "A machine that came with a good token, as the controller that issues certificates records it.",
            enrolment.Stage.PENDING.name,
            _moves(enrolment.TRANSITIONS),
        ),
        Machine(
            "Delivery of a command",
            "controller/command/delivery.py",
            "One command at one node, as the controller that delivers it records it.",
            delivery.DeliveryState.PENDING.name,
            _moves(delivery.TRANSITIONS),
        ),
        Machine(
            "Session of a node",
            "controller/nodelink/session.py",
            "A node's return, as the controller that delivers to it sees it: from its greeting to being live.",
            session.SessionState.GREETED.name,
            _moves(session.TRANSITIONS),
        ),
        Machine(
            "Agent's link",
            "nodeagent/link.py",
            "The stream of one node to the controller of its domain, seen from the node.",
            link.LinkState.DISCONNECTED.name,
            _moves(link.TRANSITIONS),
        ),
        Machine(
            "Ledger of a node",
            "nodeagent/ledger.py",
            "One command in the node's own ledger.",
            ledger.EntryState.PENDING.name,
            [
                Move(before.name, "", after.name, reason)
                for (before, after), reason in ledger.TRANSITIONS.items()
            ],
        ),
    ]


def _moves(transitions: Mapping[Any, Any]) -> list[Move]:
    """The rows of a table of (state, trigger) -> edge."""
    return [
        Move(before.name, _words(trigger), edge.to.name, edge.because)
        for (before, trigger), edge in transitions.items()
    ]


def page(shown: Sequence[Machine]) -> str:
    """The whole page."""
    return "\n".join([HEAD, *(line for machine in shown for line in _section(machine))])


def _section(machine: Machine) -> Iterator[str]:
    yield f"## {machine.title}"
    yield ""
    yield f"{machine.about} The table is in `{machine.module}`."
    yield ""
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield f"    [*] --> {machine.start}"
    for (before, after), triggers in _arrows(machine.moves).items():
        label = ", ".join(dict.fromkeys(t for t in triggers if t))
        yield f"    {before} --> {after}" + (f": {label}" if label else "")
    for final in machine.final_states():
        yield f"    {final} --> [*]"
    yield "```"
    yield ""
    yield "| from | trigger | to | why |"
    yield "|---|---|---|---|"
    for move in machine.moves:
        yield f"| {move.before} | {move.trigger} | {move.after} | {move.why} |"
    yield ""
    yield from machine.more


def _frames_in_place() -> list[str]:
    return [
        "Frames in place; `goodbye` is in place in every phase but CLOSED, where nothing is looked at any more.",
        "",
        "| phase | frame | why |",
        "|---|---|---|",
        *(
            f"| {phase.name} | `{frame}` | {why} |"
            for phase, frames in session_phases.ALLOWED.items()
            for frame, why in frames.items()
        ),
        "",
    ]


def _arrows(moves: Sequence[Move]) -> Mapping[tuple[str, str], list[str]]:
    """One arrow for all triggers that lead the same way."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for move in moves:
        arrows.setdefault((move.before, move.after), []).append(move.trigger)
    return arrows


def _words(trigger: Enum) -> str:
    return trigger.name.lower().replace("_", " ")


def main() -> None:
    """Writes the page."""
    OUTPUT.write_text(page(machines()))
    print(OUTPUT.relative_to(ROOT))


if __name__ == "__main__":
    main()
