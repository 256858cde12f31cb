"""The log port: what the rest of the controller may know of its event log.

Owns the vocabulary (head, mastership, lease) and the Protocols that both adapters fulfil. Must
never import an adapter, a store's client, or anything that does I/O.

The log is a dense sequence of commits, numbered from 0, joined to a chain: the hash after a commit
is SHA-256(hash before it ‖ commit bytes). A store need not hold all of it: what lies before its
start is in an archive (controller/archive).
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

MAX_COMMIT_BYTES = 1024 * 1024
"""Largest commit: etcd refuses requests over 1.5 MiB by default; the rest is for keys and head."""

HASH_BYTES = hashlib.sha256().digest_size
NONCE_BYTES = 16
EMPTY_HASH = bytes(HASH_BYTES)
"""The hash of a log without commits."""

CommitAt = tuple[int, bytes]
"""(offset, commit bytes)"""


@dataclass(frozen=True, slots=True)
class Head:
    """Where the log ends.

    `hash` is SHA-256(previous hash ‖ commit bytes) of the last commit, 32 zero bytes when there
    is none. `nonce` is drawn once when the log is created, so that two logs are never taken for
    one another.
    """

    next_offset: int
    hash: bytes
    nonce: bytes

    def after(self, commit: bytes) -> Head:
        """The head as it stands once `commit` is appended here."""
        return Head(self.next_offset + 1, hash_after(self.hash, commit), self.nonce)


class Space(NamedTuple):
    """What a store's file takes on disk, in bytes, and what of it is free for more."""

    file_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What was given back to the system, in bytes, and for how long the store answered nobody."""

    freed_bytes: int
    stalled_s: float


@dataclass(frozen=True, slots=True)
class Mastership:
    """Proof of having been elected.

    The token grows with every election, and every append is checked against it.
    """

    token: int


def hash_after(previous: bytes, commit: bytes) -> bytes:
    """The chain's hash after `commit`, given the hash before it."""
    running = hashlib.sha256(previous)
    running.update(commit)
    return running.digest()


class MastershipLease(Protocol):
    """A mastership held for as long as it is renewed.

    Holding it is a belief; the check of the token within each append is the guarantee.
    """

    @property
    def mastership(self) -> Mastership:
        """The token to append with."""
        ...

    @property
    def valid(self) -> bool:
        """Whether the lease still stands by this machine's monotonic clock.

        Never true after it was seen false.
        """
        ...

    async def lost(self) -> None:
        """Wait until the lease is lost or released."""
        ...

    async def release(self) -> None:
        """Give the mastership up at once, so that another replica need not wait for the lease to
        run out.
        """
        ...


class Log(Protocol):
    """One controller's event log."""

    @property
    def identity(self) -> str:
        """Names the store itself (etcd cluster id, or the SQLite file's uuid).

        Known once opened.
        """
        ...

    async def open(self, fresh_nonce: bytes) -> Head:
        """Connect, check the store's version, and return the head.

        `fresh_nonce` (16 random bytes) is used only if the log does not exist yet and is created
        here. Raises LogUnavailable, LogRefused, LogCorrupt.
        """
        ...

    async def head(self) -> Head:
        """The head, linearisable: no append acknowledged before this call is missing.

        Raises LogUnavailable.
        """
        ...

    async def append(self, mastership: Mastership, expected: Head, commit: bytes) -> Head:
        """Append one commit at `expected` in one transaction; return the new head once it is
        durable.

        An unknown outcome is resolved here: the identical bytes are proposed again under the same
        conditions, and if those no longer hold, what stands at the offset is read back. Callers
        therefore make commits distinct (a commit id within the bytes).

        Raises Fenced, HeadMoved, CommitTooLarge, LogRefused, LogUnavailable (all: not written), and
        OutcomeUnknown if that could not be found out in time.
        """
        ...

    async def read(self, first_offset: int, max_bytes: int) -> list[CommitAt]:
        """Consecutive commits from `first_offset`, chain verified, of at most `max_bytes` together.

        Never fewer than one if there is one, however large; empty at the end of the log.
        Raises LogUnavailable, LogCorrupt.
        """
        ...

    async def hash_before(self, offset: int) -> bytes:
        """The chain's hash before the commit at `offset`; at the end of the log, the head's.

        Raises IndexError beyond the end, LogUnavailable, LogCorrupt.
        """
        ...

    def follow(self, first_offset: int) -> AsyncGenerator[list[CommitAt], None]:
        """Endless tail from `first_offset`: every commit once, in order, through outages of the
        store.

        Catches up by paged reads first. Raises LogCorrupt and LogRefused; outages only make it
        wait.
        """
        ...

    async def campaign(self, candidate: str, ttl_s: float) -> MastershipLease:
        """Wait until this candidate holds the mastership. Outages only make it wait.

        `candidate` (replica id and advertised address) is shown to others by current_master.
        The store may grant a longer time to live than `ttl_s`. Raises LogRefused.
        """
        ...

    async def current_master(self) -> str | None:
        """The candidate that holds the mastership, or None. Raises LogUnavailable."""
        ...

    async def close(self) -> None:
        """Let go of all resources. Leases not released run out by themselves."""
        ...


class StoredLog(Log, Protocol):
    """A log in one store, whose beginning can be dropped once it is kept elsewhere.

    `read`, `hash_before` and `follow` raise Trimmed for what lies before the start.
    """

    async def start(self) -> Head:
        """The place in the chain from which on the store holds the log: offset, hash before it.

        Raises LogUnavailable, LogCorrupt.
        """
        ...

    async def trim(self, mastership: Mastership, expected: Head, start: Head) -> None:
        """Drop all commits before `start` in one transaction, if the log starts at `expected`.

        What was dropped is to be a few thousand commits at most: they are deleted in one go. An
        unknown outcome is resolved as in append; a start that stands already is none of an error.
        Raises Fenced, HeadMoved, LogRefused, LogUnavailable (all: not dropped), OutcomeUnknown.
        """
        ...

    async def reclaim(self) -> Reclaimed:
        """Give back to the system what trimming has freed, as far as the store allows it now.

        Raises LogUnavailable, LogRefused.
        """
        ...

    async def space(self) -> Space:
        """What the store takes on disk; on a shared store that is everyone's. Raises LogUnavailable."""
        ...

    async def note_archived(self, replica: str, offset: int) -> None:
        """Tell all replicas that this one has everything before `offset` in an archive of its own.

        Raises LogUnavailable, LogRefused.
        """
        ...

    async def archived(self) -> dict[str, int]:
        """Up to where each replica has the log in its archive, as they told. Raises LogUnavailable."""
        ...
