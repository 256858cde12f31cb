"""The merged keys of all domains: subjects, their aspects, the siblings of each. Owns the index of subjects and which
of them are in memory; never merges or ranks anything.

A *hot* subject has its aspects in memory. A *cold* one is known by its name and a *mark*, a small number that whoever
cooled it made of its aspects; they are in a store behind the port `ColdSubjects`. The first read of one makes it hot
again, a `glance` does not. Without a store every subject is hot.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from federation.errors import CorruptStore
from federation.identifiers import Key, as_key
from federation.merge import Siblings

#: What stands of one subject in one domain, by aspect.
Aspects = dict[str, Siblings]


class ColdSubjects(Protocol):
    """Where subjects are that are not in memory."""

    def load(self, domain: str, subject: str) -> Aspects:
        """The aspects of a subject that was cooled, as they stood then; it is hot from now on."""

    def glance(self, domain: str, subject: str) -> Aspects:
        """As `load`, for a subject that stays cold."""


class _NothingIsCold:
    """Without a store nothing may be cooled."""

    def load(self, domain: str, subject: str) -> Aspects:
        raise CorruptStore(f"{subject} of {domain} was cooled, and no store holds it")

    glance = load


class Table:
    """Keys → siblings, with an index of subjects.

    Costs in memory, a subject: its name and three entries of indexes, some 250 bytes; when hot, 0.9 KB an aspect, too.
    """

    __slots__ = ("_cold", "_domains_shared", "_held", "domains_of_subject", "subjects")

    def __init__(self) -> None:
        #: domain -> subject -> what stands of it, or the mark of one that is cold.
        self._held: dict[str, dict[str, Aspects | int]] = {}
        self._cold: ColdSubjects = _NothingIsCold()
        #: (domain, kind) -> subjects in the order in which they were first met.
        self.subjects: dict[tuple[str, str], list[str]] = {}
        #: subject -> domains something was written of it in; equal tuples are one object.
        self.domains_of_subject: dict[str, tuple[str, ...]] = {}
        self._domains_shared: dict[tuple[str, ...], tuple[str, ...]] = {}

    def attach(self, cold: ColdSubjects) -> None:
        """Names the store that `cool` leaves subjects to."""
        self._cold = cold

    # Reading.

    def siblings(self, key: Key) -> Siblings:
        """The writes of a key of which none saw another; empty when it was never written. Makes its subject hot."""
        domain, subject, aspect = key
        subjects = self._held.get(domain)
        if subjects is None:
            return ()
        aspects = subjects.get(subject)
        if not isinstance(aspects, dict):
            if aspects is None:
                return ()
            aspects = self._warm(domain, subject)
        return aspects.get(aspect, ())

    def hot(self, domain: str, subject: str) -> Aspects | None:
        """What stands of a hot subject; None for one that is cold or was never met. Not to be changed."""
        subjects = self._held.get(domain)
        aspects = subjects.get(subject) if subjects is not None else None
        return aspects if isinstance(aspects, dict) else None

    def mark(self, domain: str, subject: str) -> int | None:
        """The mark of a cold subject; None for one that is hot or was never met."""
        subjects = self._held.get(domain)
        mark = subjects.get(subject) if subjects is not None else None
        return mark if isinstance(mark, int) else None

    def glance(self, domain: str, subject: str) -> Aspects:
        """What stands of a subject, empty when it was never met; a cold one stays cold. Not to be changed."""
        aspects = self.hot(domain, subject)
        if aspects is not None:
            return aspects
        if subject not in self._held.get(domain, ()):
            return {}
        return self._cold.glance(domain, subject)

    def items(self) -> Iterator[tuple[Key, Siblings]]:
        """Every key with its siblings; cold subjects stay cold."""
        for (domain, _), subjects in self.subjects.items():
            for subject in subjects:
                for aspect, siblings in self.glance(domain, subject).items():
                    yield as_key((domain, subject, aspect)), siblings

    # Changing.

    def aspects_to_change(self, domain: str, subject: str) -> Aspects:
        """What stands of a subject, hot from now on, to be changed; a subject that was never met is taken in."""
        subjects = self._held.get(domain)
        if subjects is None:
            subjects = self._held[domain] = {}
        aspects = subjects.get(subject)
        if isinstance(aspects, dict):
            return aspects
        if aspects is not None:
            return self._warm(domain, subject)
        aspects = subjects[subject] = {}
        self._note_subject(domain, subject)
        return aspects

    def put_cold(self, domain: str, subject: str, mark: int = 0) -> None:
        """Takes in a subject by name; its aspects are in the store."""
        subjects = self._held.setdefault(domain, {})
        if subject not in subjects:
            subjects[subject] = mark
            self._note_subject(domain, subject)

    def cool(self, domain: str, subject: str, mark: int = 0) -> bool:
        """Drops a subject's aspects from memory; they must be in the store as they stand. Of a contested subject they
        are kept: whoever wins there may still turn, and open conflicts are looked at often. Tells whether it is cold.

        `mark` is from 0 to 255: such numbers take no room of their own.
        """
        aspects = self.hot(domain, subject)
        if aspects is None:
            return self.mark(domain, subject) is not None
        if any(len(siblings) > 1 for siblings in aspects.values()):
            return False
        self._held[domain][subject] = mark
        return True

    def _warm(self, domain: str, subject: str) -> Aspects:
        aspects = self._held[domain][subject] = self._cold.load(domain, subject)
        return aspects

    def _note_subject(self, domain: str, subject: str) -> None:
        kind = subject.partition("/")[0]
        subjects = self.subjects.get((domain, kind))
        if subjects is None:
            subjects = self.subjects[domain, kind] = []
        subjects.append(subject)
        domains = (*self.domains_of_subject.get(subject, ()), domain)
        self.domains_of_subject[subject] = self._domains_shared.setdefault(domains, domains)
