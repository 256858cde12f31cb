"""What can go wrong with the log, by who must act.

Owns the error types of the log port. Never carries adapter types: an adapter turns its store's
errors into these, so that callers act on meaning and not on the store.
"""

from __future__ import annotations


class LogError(Exception):
    """Root of everything the log port raises."""


class Fenced(LogError):
    """This replica no longer holds the mastership.

    The replica must step down; nothing was written.
    """


class HeadMoved(LogError):
    """The log does not end, or start, where the caller thought.

    The caller must read on; nothing was written.
    """


class LogUnavailable(LogError):
    """The store cannot be reached. Nothing was written; the same call may be made again later."""


class OutcomeUnknown(LogError):
    """A commit may or may not stand, and the store does not answer the question in time.

    The writer must not report failure. It steps down, or appends the identical bytes at the
    identical head again: only the answer to such an append is final. That a read does not show
    the commit proves nothing, for the store may still hold it in a queue.
    """


class CommitTooLarge(LogError):
    """The commit exceeds the largest size of a commit.

    The caller must split it; nothing was written.
    """


class LogCorrupt(LogError):
    """What is stored contradicts itself: a gap, a broken chain, an unreadable head.

    An operator must act.
    """


class LogRefused(LogError):
    """The store refuses us (credentials, permission, version, quota).

    An operator must act; nothing was written.
    """


class Trimmed(LogError):
    """The store holds the log from `start_offset` on only: what was asked for is in the archive.

    Whoever reads a store alone must read the archive; nobody else sees it.
    """

    def __init__(self, start_offset: int) -> None:
        super().__init__(f"the store holds commits from {start_offset} on; read the archive")
        self.start_offset = start_offset
