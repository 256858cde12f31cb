"""docs/agent.md shows the state machines as they are."""

from __future__ import annotations

from pathlib import Path

from nodeagent import ledger, link

DOC = Path(__file__).parents[3] / "docs" / "agent.md"


def diagram_after(heading: str) -> list[str]:
    """The moves drawn in the first diagram below a heading."""
    below = DOC.read_text().split(f"## {heading}\n", 1)[1]
    lines = below.split("```mermaid\n", 1)[1].split("```", 1)[0].splitlines()
    return [line.strip() for line in lines if "-->" in line and "[*]" not in line]


def test_the_link_is_drawn_as_it_moves() -> None:
    assert diagram_after("The link") == [
        f"{state.value} --> {edge.to.value}: {trigger.value}"
        for (state, trigger), edge in link.TRANSITIONS.items()
    ]


def test_the_ledger_is_drawn_as_it_moves() -> None:
    assert diagram_after("Commands and the ledger") == [
        f"{before.value} --> {after.value}: {reason}"
        for (before, after), reason in ledger.TRANSITIONS.items()
    ]
