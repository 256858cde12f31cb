"""The story as it is told: what is shown at the end of it."""

from __future__ import annotations

from deploy.demo.story import STEPS, Outcome, succeeded


def outcomes(count: int, *, ok: bool = True) -> list[Outcome]:
    return [Outcome(n, step.title, ok, "seen", 1.0) for n, step in enumerate(STEPS[:count], 1)]


def test_every_step_has_a_title_of_its_own() -> None:
    assert len({step.title for step in STEPS}) == len(STEPS)


def test_a_story_that_broke_off_or_has_a_failed_step_has_not_succeeded() -> None:
    assert succeeded(outcomes(len(STEPS)))
    assert not succeeded(outcomes(len(STEPS) - 1))
    assert not succeeded(outcomes(len(STEPS), ok=False))
