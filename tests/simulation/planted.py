"""Bugs planted to prove the checks: each breaks one thing of the product or of its surroundings, in this process only,
and names the invariant whose check must find it. Owns the registry; nothing of it exists in the product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import federation.receipt as receipt_module
import federation.state as state_module
import federation.transfers as transfers_module
from federation.acceptance import ACCEPTED
from federation.admissions import Admissions
from federation.bounds import Bounds
from federation.codec import stream_from_message
from federation.conflicts import ConflictLedger
from federation.grounds import Grounds
from federation.keys import KeyRing
from federation.merge import Siblings
from federation.outbox import Outbox
from federation.proposal import Proposal
from federation.state import State
from tests.simulation import clients as clients_module
from tests.simulation.replica import Replica
from tests.simulation.simulated_log import SimulatedLog

Make = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True, slots=True)
class PlantedBug:
    """One bug: where it is, what replaces the original there, and whose check finds it."""

    invariant: str
    owner: Any
    name: str
    replacement: Make


def _always(value: Any) -> Make:
    return lambda original: lambda *arguments, **options: value


def _merge_ignoring_contexts(original: Callable[..., Any]) -> Callable[..., Any]:
    def merge(held: Siblings, write: Any) -> Siblings:
        return held if any(s.dot == write.dot for s in held) else (*held, write)

    return merge


def _merge_dropping_losers(original: Callable[..., Any]) -> Callable[..., Any]:
    def merge(held: Siblings, write: Any) -> Siblings:
        merged: Siblings = original(held, write)
        if merged is held:
            return held
        return (max(merged, key=lambda s: (s.term, s.stamp, s.origin)),)

    return merge


def _last_come_wins(original: Callable[..., Any]) -> Callable[..., Any]:
    def winner(state: State, key: Any) -> Any:
        held = state.siblings(key)
        return held[-1] if held else None

    return winner


def _answer_before_append(original: Callable[..., Any]) -> Callable[..., Any]:
    def commit_next(replica: Any) -> None:
        original(replica)
        if replica._in_flight is not None:
            built, gathered = replica._in_flight
            clients = [g for g in gathered if isinstance(g[1], clients_module.Decision)]
            replica._in_flight = (built, [g for g in gathered if g not in clients])
            for answer, value in clients:
                answer(value, None)

    return commit_next


def _crash_losing_last_commit(original: Callable[..., Any]) -> Callable[..., Any]:
    def crash(replica: Any) -> None:
        original(replica)
        log = replica.controller.log
        if log.commits:
            log.data.pop()
            for run in log.commits.pop().runs:
                stream = stream_from_message(run.stream)
                log.durable[stream] = run.first_sequence - 1

    return crash


def _transfer_under_the_same_term(original: Callable[..., Any]) -> Callable[..., Any]:
    def next_record(current: Any, *arguments: Any, **options: Any) -> Any:
        record = original(current, *arguments, **options)
        record.term = current.term
        record.since[:] = current.since
        return record

    return next_record


def _rank_by_stamp_only(original: Callable[..., Any]) -> Callable[..., Any]:
    def rank(state: State, key: Any, write: Any) -> Any:
        return (), original(state, key, write)[1]

    return rank


def _follow_any_clock(original: Callable[..., Any]) -> Callable[..., Any]:
    def observe_stamps(proposal: Any, stream: Any, run: Any, writes: Any) -> None:
        stamps = [write.stamp for write in writes if write is not None]
        proposal._clock.last = max([proposal._clock.last, *stamps])

    return observe_stamps


def _ignore_admissions(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda admissions, domain, lane, write: write.stamp


def _apply_last_twice(original: Callable[..., Any]) -> Callable[..., Any]:
    def bring(
        state: Any, stream: Any, held: Any, run: Any, writes: Any, own: Any, at: Any, applied: Any
    ) -> Any:
        verdict = original(state, stream, held, run, writes, own, at, applied)
        if verdict is ACCEPTED:
            state._merge(stream, writes[-1], at, applied)
        return verdict

    return bring


def _never_judge_again(original: Callable[..., Any]) -> Callable[..., Any]:
    def control(state: Any, *arguments: Any) -> None:
        original(state, *arguments)
        state._judge_again = False

    return control


def _audit_only_here(original: Callable[..., Any]) -> Callable[..., Any]:
    def write_audit(proposal: Any, record: Any, *, domain: str) -> None:
        if domain == proposal.identity.domain:
            original(proposal, record, domain=domain)

    return write_audit


PLANTED: dict[str, PlantedBug] = {
    "last-come-wins": PlantedBug("I1", State, "winner", _last_come_wins),
    "merge-ignores-contexts": PlantedBug("I2", state_module, "merge", _merge_ignoring_contexts),
    "merge-drops-losers": PlantedBug("I2", state_module, "merge", _merge_dropping_losers),
    "rivals-unrecorded": PlantedBug("I2", ConflictLedger, "saw_rivals", _always(None)),
    "answer-before-append": PlantedBug("I3", Replica, "_commit_next", _answer_before_append),
    "log-without-fsync": PlantedBug("I3", Replica, "crash", _crash_losing_last_commit),
    "grants-unchecked": PlantedBug("I4", state_module, "judge_run", _always(ACCEPTED)),
    "terms-unchecked": PlantedBug("I4", state_module, "judge_event", _always(ACCEPTED)),
    "term-not-raised": PlantedBug(
        "I5", transfers_module, "next_record", _transfer_under_the_same_term
    ),
    "fence-off": PlantedBug("I6", SimulatedLog, "_is_fenced", _always(False)),
    "rank-by-stamp-only": PlantedBug("I6", State, "rank", _rank_by_stamp_only),
    "admissions-ignored": PlantedBug("I7", Admissions, "effective_stamp", _ignore_admissions),
    "follow-any-clock": PlantedBug("I7", Proposal, "_observe_stamps", _follow_any_clock),
    "apply-twice": PlantedBug("I9", State, "_bring_into_effect", _apply_last_twice),
    "requests-forgotten": PlantedBug("I9", Proposal, "subject_of_request", _always(None)),
    "seals-unverified": PlantedBug("I10", KeyRing, "seal_is_good", _always(True)),
    "old-keys-good": PlantedBug("I10", KeyRing, "_is_ended", _always(False)),
    "sealed-goes-on": PlantedBug("I10", Bounds, "limit", _always(None)),
    "void-stands": PlantedBug("I10", Grounds, "_voids", _always(False)),
    "detours-open": PlantedBug("I11", receipt_module, "_is_beyond", _always(False)),
    "refused-takes-place": PlantedBug("I11", receipt_module, "_why_ended", _always("")),
    "audit-lost": PlantedBug("I12", clients_module, "write_audit", _audit_only_here),
    "never-resent": PlantedBug("I15", Outbox, "reposition", _always(None)),
    "never-judged-again": PlantedBug("I15", State, "_control", _never_judge_again),
}


@contextmanager
def planted(name: str) -> Iterator[PlantedBug]:
    """Plants one bug while the context lasts."""
    bug = PLANTED[name]
    with patch.object(bug.owner, bug.name, bug.replacement(getattr(bug.owner, bug.name))):
        yield bug
