"""Takes back marks whose item's cause has ended, so that none speaks for the next occurrence: a duty of the domain's
master-of-record. Owns when it looks; which causes stand is the queue's to say.

Only what follows from facts is looked at: what another controller sees of its links is not known here, and a mark on
that names its time.
"""

from __future__ import annotations

import asyncio
from itertools import islice

from controller.attention.conditions import FROM_FACTS, Cause, Kind
from controller.attention.marks import STANDING, ending
from controller.attention_feed import AttentionFeed
from controller.journal import Journal
from controller.nodelink.commits import MAX_SUBMISSION_FACTS, commit
from controller.replica import Replica
from controller.twin.facts import body_of
from federation.identifiers import Key
from federation.proposal import Proposal
from souverix.attention.v1 import attention_pb2

#: Between two looks: marks are made by people, and what ended and began anew within it counts as one occurrence.
LOOK_S = 2.0


class MarkEnding:
    """The marks in domains that this controller is master-of-record of."""

    def __init__(self, replica: Replica, feed: AttentionFeed) -> None:
        self._replica = replica
        self._feed = feed

    async def run(self, journal: Journal) -> None:
        """Takes marks back, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self._feed.complete and (over := self._over()):
                await commit(journal, lambda proposal, over=over: self._write(proposal, over))  # type: ignore[misc]

    def _over(self) -> list[Key]:
        state = self._replica.state
        me = self._replica.config.controller.id
        found = []
        for domain, id_ in self._feed.standing_marks:
            record = state.authority.records.get(domain)
            if record is None or record.master_of_record != me or record.next_master:
                continue
            key = Key(domain, f"attention/{id_}", "attention_mark")
            mark = body_of(state, key)
            if mark is not None and self._is_over(domain, mark):
                found.append(key)
        return list(islice(found, MAX_SUBMISSION_FACTS))

    def _is_over(self, domain: str, mark: attention_pb2.AttentionMark) -> bool:
        known = mark.state in STANDING and mark.kind in {int(kind) for kind in FROM_FACTS}
        # A kind that makes no items here may make some elsewhere.
        if not known or not self._feed.kind_matters(Kind(mark.kind)):
            return False
        return not self._feed.queue.stands(Cause(Kind(mark.kind), domain, mark.subject))

    def _write(self, proposal: Proposal, over: list[Key]) -> None:
        for key in over:
            mark = body_of(proposal, key)
            if mark is not None and mark.state in STANDING:
                principal = f"controller:{proposal.identity.controller}"
                proposal.write(*key, ending(mark), principal=principal)
