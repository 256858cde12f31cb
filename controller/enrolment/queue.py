"""How many tokens are open and how many machines wait, by domain. Owns these counts over the facts of one log: they
follow from commits, so that nobody has to look through all that ever enrolled.
"""

from __future__ import annotations

from controller.enrolment import enrolments, tokens
from controller.enrolment.stages import Stage
from federation.identifiers import Key
from federation.state import Applied, State


class Waiting:
    """The open tokens and pending enrolments of one state; `note` is to hear of every commit after it was made."""

    def __init__(self, state: State) -> None:
        self._state = state
        #: domain -> subject -> when it is over, in milliseconds since the epoch.
        self._tokens: dict[str, dict[str, int]] = {}
        self._pending: dict[str, dict[str, int]] = {}
        for domain, subject in state.subjects_everywhere(tokens.COLLECTION):
            self._look_at(Key(domain, subject, tokens.ASPECT))
        for domain, subject in state.subjects_everywhere(enrolments.COLLECTION):
            self._look_at(Key(domain, subject, enrolments.ASPECT))

    def note(self, applied: Applied) -> None:
        """Takes note of what a commit changed."""
        for key in applied.keys:
            if key.aspect in (tokens.ASPECT, enrolments.ASPECT):
                self._look_at(key)

    def open_tokens(self, domain: str, now_ms: int) -> int:
        """How many tokens of a domain can be used."""
        return _standing(self._tokens.get(domain, {}), now_ms)

    def pending(self, domain: str, now_ms: int) -> int:
        """How many machines wait for approval in a domain."""
        return _standing(self._pending.get(domain, {}), now_ms)

    def _look_at(self, key: Key) -> None:
        winner = self._state.winner(key)
        if winner is None:
            return
        record = winner.body()
        if key.aspect == tokens.ASPECT:
            standing, ends = not (record.used_by or record.revoked), record.spec.expire_time
            held = self._tokens.setdefault(key.domain, {})
        else:
            standing, ends = record.stage == Stage.PENDING, record.expire_time
            held = self._pending.setdefault(key.domain, {})
        if standing:
            held[key.subject] = ends.ToMilliseconds()
        else:
            held.pop(key.subject, None)


def _standing(held: dict[str, int], now_ms: int) -> int:
    """Forgets what is over, and counts the rest."""
    for subject in [subject for subject, ends_ms in held.items() if ends_ms <= now_ms]:
        del held[subject]
    return len(held)
