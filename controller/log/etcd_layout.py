"""Where the log's parts stand in etcd, and how etcd's errors read at the log port.

Owns the keys. Never talks to etcd.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from controller.etcd.errors import EtcdError, EtcdRefused
from controller.log.errors import LogCorrupt, LogRefused, LogUnavailable


class Layout:
    """Keys below one prefix; offsets are 16 hex digits, so that keys sort as offsets do."""

    __slots__ = ("archived", "commits", "head", "mastership", "prefix", "start")

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        #: Bound to the master's lease; its create_revision is the fencing token.
        self.mastership = f"{prefix}/mastership".encode()
        #: Where the log ends.
        self.head = f"{prefix}/head".encode()
        #: Where etcd's part of the log begins; absent: at the first commit.
        self.start = f"{prefix}/start".encode()
        #: Prefix of how far each replica has archived the log.
        self.archived = f"{prefix}/archived/".encode()
        #: Prefix of all commits.
        self.commits = f"{prefix}/log/".encode()

    def commit(self, offset: int) -> bytes:
        """The commit at an offset."""
        return b"%s%016x" % (self.commits, offset)

    def offset_of(self, key: bytes) -> int:
        """The offset of a commit's key. Raises LogCorrupt."""
        digits = key[len(self.commits) :]
        try:
            offset = int(digits, 16)
        except ValueError:
            offset = -1
        if offset < 0 or b"%016x" % offset != digits or not key.startswith(self.commits):
            raise LogCorrupt(f"{key!r} does not belong among the commits; remove it")
        return offset


@contextmanager
def as_log_errors() -> Iterator[None]:
    """Raise etcd's errors as the log's: refusals for good, everything else as unavailable.

    Not for writes whose outcome matters: these are resolved where they are made.
    """
    try:
        yield
    except EtcdRefused as error:
        raise LogRefused(str(error)) from error
    except EtcdError as error:
        raise LogUnavailable(str(error)) from error
