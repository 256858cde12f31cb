"""Commits facts that no caller waits for with a deadline: reports, deliveries, transitions. Owns patience with a log
that is slow or away; decides nothing about the facts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

from controller.journal import Journal, JournalClosed, JournalFull, WriteOutcomeUnknown
from controller.log.errors import LogRefused, LogUnavailable
from federation.proposal import Proposal

T = TypeVar("T")

_log = logging.getLogger(__name__)

#: Pause before a commit that was surely not made is tried again: the length of a hiccup, a small load on a log that is
#: away.
RETRY_S = 0.5

#: Bytes of bodies in one submission, so that a commit has room for others' beside them (the log takes 1 MiB).
MAX_SUBMISSION_BYTES = 256 * 1024

#: Facts in one submission: they are drafted without a pause, so their work must stay far below a lease renewal.
MAX_SUBMISSION_FACTS = 500


async def commit(journal: Journal, decide: Callable[[Proposal], T]) -> T:
    """What `decide` returns, once its drafts are durable; tries again for as long as the log takes none.

    When the mastership ends it waits to be cancelled: whoever runs it does so as part of that mastership. `decide`
    may run several times. Raises what it raises.
    """
    while True:
        try:
            return (await journal.submit(decide)).value
        except (JournalFull, LogUnavailable, LogRefused) as error:
            _log.warning("facts of nodes wait for the log", extra={"error": str(error)})
            await asyncio.sleep(RETRY_S)
        except (JournalClosed, WriteOutcomeUnknown):
            await asyncio.Event().wait()
