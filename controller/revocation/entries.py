"""What the facts together revoke. Owns the index of revocations in force, by which a certificate is found in constant
time; follows the log.

What is revoked stays revoked: of several values of one key the latest time counts and the longest stay, whichever of
them won. So the order in which controllers learn of them makes no difference.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from controller.revocation.targets import (
    ASPECT,
    COLLECTION,
    Issued,
    is_subject,
    subject_of_identity,
)
from controller.twin.facts import Facts
from federation.applied import Applied
from federation.errors import InvalidWrite
from federation.identifiers import Key
from federation.state import State
from souverix.trust.v1 import revocation_pb2


class Entry(NamedTuple):
    """One revocation, as far as a certificate is held against it."""

    domain: str
    subject: str
    #: Certificates issued before it are revoked, in seconds since the epoch; None: the one that the subject names.
    issued_before_s: int | None
    #: When it is over; None: never.
    expire_ms: int | None
    #: When it was stated, by whom and why, as the winner says.
    revoke_ms: int
    by: str
    reason: str


def read_entry(facts: Facts, domain: str, subject: str) -> Entry | None:
    """What is revoked under a subject; None where nothing is."""
    key = Key(domain, subject, ASPECT)
    winner = facts.winner(key)
    if winner is None or not is_subject(subject):
        return None
    stated: list[revocation_pb2.RevocationSpec] = [each.body() for each in facts.siblings(key)]
    times = [
        each.certificates.identity.issued_before.seconds
        for each in stated
        if each.certificates.HasField("identity")
    ]
    by_identity = subject.startswith(f"{COLLECTION}/identity-")
    ends = [each.expire_time.ToMilliseconds() for each in stated if each.HasField("expire_time")]
    told: revocation_pb2.RevocationSpec = winner.body()
    return Entry(
        domain,
        subject,
        max(times, default=0) if by_identity else None,
        max(ends) if len(ends) == len(stated) else None,
        told.revoke_time.ToMilliseconds(),
        winner.principal,
        told.reason,
    )


class Revocations:
    """The revocations in force at one controller. `now_ms` tells the time since the epoch."""

    def __init__(self, state: State, now_ms: Callable[[], int]) -> None:
        self._state = state
        self.now_ms = now_ms
        self._entries: dict[tuple[str, str], Entry] = {}
        self._counts: Counter[str] = Counter()
        #: When entries are over, the next first; those that were stated anew since are passed over.
        self._ends: list[tuple[int, str, str]] = []
        #: False until the state was read once: it may be restored without a commit being applied.
        self._is_read = False

    def note(self, applied: Applied) -> None:
        """Takes in what a commit revoked."""
        if not self._is_read:
            return
        for key in applied.keys:
            if key.aspect == ASPECT:
                self._take(key.domain, key.subject)

    def find(
        self, certificates: Iterable[Issued], domain: str, principal: str, issued_s: int
    ) -> Entry | None:
        """What revokes a bearer: one of the certificates it rests on, or those of its identity, issued in `domain` at a
        time in seconds since the epoch.
        """
        self._read()
        if not self._entries:
            return None
        return _found(self._held, certificates, domain, principal, issued_s)

    def find_ever(
        self, certificates: Iterable[Issued], domain: str, principal: str, issued_s: int
    ) -> Entry | None:
        """As `find`, among those that are over, too: for a certificate that has ended and still proves whose it was."""

        def stated(domain: str, subject: str) -> Entry | None:
            return read_entry(self._state, domain, subject)

        return _found(stated, certificates, domain, principal, issued_s)

    def held(self, domain: str, subject: str) -> Entry | None:
        """The revocation in force under a subject."""
        self._read()
        return self._held(domain, subject)

    def count(self, domain: str) -> int:
        """How many revocations of a domain's certificates are in force."""
        self._read()
        return self._counts[domain]

    def _held(self, domain: str, subject: str) -> Entry | None:
        return self._entries.get((domain, subject))

    def _read(self) -> None:
        if not self._is_read:
            self._is_read = True
            for domain, subject in list(self._state.subjects_everywhere(COLLECTION)):
                self._take(domain, subject)
        now_ms = self.now_ms()
        while self._ends and self._ends[0][0] <= now_ms:
            end_ms, domain, subject = heapq.heappop(self._ends)
            entry = self._entries.get((domain, subject))
            if entry is not None and entry.expire_ms == end_ms:
                self._drop(domain, subject)

    def _take(self, domain: str, subject: str) -> None:
        entry = read_entry(self._state, domain, subject)
        if entry is None:
            return
        self._drop(domain, subject)
        self._entries[domain, subject] = entry
        self._counts[domain] += 1
        if entry.expire_ms is not None:
            heapq.heappush(self._ends, (entry.expire_ms, domain, subject))

    def _drop(self, domain: str, subject: str) -> None:
        if self._entries.pop((domain, subject), None) is not None:
            self._counts[domain] -= 1


def _found(
    entry_of: Callable[[str, str], Entry | None],
    certificates: Iterable[Issued],
    domain: str,
    principal: str,
    issued_s: int,
) -> Entry | None:
    for certificate in certificates:
        for issuer, subject in certificate.keys:
            entry = entry_of(issuer, subject)
            if entry is not None:
                return entry
    try:
        entry = entry_of(domain, subject_of_identity(principal))
    except InvalidWrite:
        return None
    if entry is None or entry.issued_before_s is None or issued_s >= entry.issued_before_s:
        return None
    return entry
