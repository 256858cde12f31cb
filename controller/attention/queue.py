"""The items there are, kept current condition by condition. Owns what becomes one item and what is taken together, and
the order by score; never judges facts, never reads marks.

Conditions come by source (a node, a conflict, all links): a source's new conditions replace its old ones. What is kept
of a condition is small, so that a million nodes in trouble fit; of each kind in each domain at most `group_above` are
shown one by one, more are one item. So the items are few however many nodes there are, and readers look at items only.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple

from controller.attention.conditions import (
    FROM_FACTS,
    UNDATED,
    Cause,
    Condition,
    Kind,
    Severity,
    item_id,
)
from controller.attention.rules import GROUP_ABOVE

#: Members of a group that are named.
EXAMPLES = 5

#: Items that ended and are remembered, for watches that go on: an hour of a busy fleet.
MAX_ENDED = 4096

#: Entries of a group's order that are stale before it is made anew, beside one for each member.
STALE_ENTRIES = 64

#: Beginning of the sources and subjects whose conditions can be told again.
NODES = "nodes/"

#: What a kind says of many nodes.
GROUP_WORDS = {
    Kind.NODE_DRIFT: "drift",
    Kind.NODE_UNHEALTHY: "are unhealthy",
    Kind.NODE_AUTONOMOUS: "are cut off and work on by themselves",
    Kind.NODE_DISCONNECTED: "are disconnected",
    Kind.NODE_FLAPPING: "have links that come and go",
    Kind.NODE_RETURN_STUCK: "are stuck in their return",
    Kind.NODE_SYNC_DEBT: "have a backlog that does not arrive",
    Kind.NODE_QUARANTINED: "are in quarantine",
    Kind.MAINTENANCE_OVERDUE: "are in maintenance beyond its end",
    Kind.UPDATE_STUCK: "are stuck in an update",
    Kind.DECOMMISSION_STUCK: "have been leaving service for too long",
    Kind.WAIVER_EXPIRING: "have a waiver that ends soon",
    Kind.NODE_CLAIMED_TWICE: "are claimed by two domains",
    Kind.NODE_AGENT_REFUSED: "have had an agent refused",
    Kind.NODE_CLOCK_OFF: "have a clock that is off",
    Kind.SUPPLY_CHAIN_VIOLATION: "run, or are to run, what is not verified",
    Kind.ATTESTATION_FAILED: "measure something else than is expected",
    Kind.ATTESTATION_MISSING: "must attest, and are not verified",
}

#: What a kind says of many things that are no nodes.
GROUP_NOUNS = {
    Kind.COMMAND_UNSUCCESSFUL: "commands did not succeed",
    Kind.CONFLICT_OPEN: "conflicts are open",
    Kind.AUTHORITY_MISMATCH: "contradictions of authority stand",
    Kind.AUTHORITY_TRANSFER_PENDING: "transfers of authority are pending",
    Kind.CONTROLLER_CUT_OFF: "controllers are cut off",
    Kind.CONTROLLER_SYNC_DEBT: "controllers are far behind",
    Kind.CONTROLLER_CLOCK_OFF: "controllers have a clock that is off",
    Kind.STREAM_QUARANTINED: "streams have runs in quarantine",
    Kind.STREAM_WAITING: "streams wait",
    Kind.ENROLMENT_PENDING: "machines wait to be let in",
    Kind.REVOKED_CALLER: "callers show certificates that were revoked",
}

#: The verb that shows the members of a group, as far as there is one for the kind.
GROUP_STEPS = {
    Kind.NODE_DRIFT: "souverixctl drift {domain}",
    Kind.NODE_AUTONOMOUS: "souverixctl get nodes --domain {domain} --mode autonomous",
    Kind.NODE_DISCONNECTED: "souverixctl get nodes --domain {domain} --mode disconnected",
    Kind.NODE_QUARANTINED: "souverixctl get nodes --domain {domain} --phase quarantined",
    Kind.ENROLMENT_PENDING: "souverixctl enrolment list --domain {domain} --pending",
    Kind.UPDATE_STUCK: "souverixctl get nodes --domain {domain} --phase updating",
    Kind.MAINTENANCE_OVERDUE: "souverixctl get nodes --domain {domain} --phase updating",
    Kind.DECOMMISSION_STUCK: "souverixctl get nodes --domain {domain} --phase decommissioning",
    Kind.COMMAND_UNSUCCESSFUL: "souverixctl get commands",
    Kind.CONFLICT_OPEN: "souverixctl conflicts list --domain {domain} --open",
    Kind.AUTHORITY_MISMATCH: "souverixctl describe authority {domain}",
    Kind.AUTHORITY_TRANSFER_PENDING: "souverixctl federation topology",
    Kind.CONTROLLER_CUT_OFF: "souverixctl federation peers",
    Kind.CONTROLLER_SYNC_DEBT: "souverixctl federation peers",
    Kind.CONTROLLER_CLOCK_OFF: "souverixctl federation peers",
    Kind.STREAM_QUARANTINED: "souverixctl federation streams",
    Kind.STREAM_WAITING: "souverixctl federation streams",
    Kind.REVOKED_CALLER: "souverixctl attention --kind revoked-caller --domain {domain}",
}
ANY_GROUP_STEP = "souverixctl get nodes --domain {domain}"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to look at. Equal items say the same."""

    id: str
    kind: Kind
    domain: str
    subject: str
    severity: Severity
    since_ms: int
    words: str
    next_step: str
    extent: float
    nodes: int
    #: Of many taken together, those for which it lasts longest; empty: it is about one.
    examples: tuple[str, ...] = ()

    @property
    def is_group(self) -> bool:
        """Tells whether many are taken together."""
        return bool(self.examples)


class _Member(NamedTuple):
    """What is kept of a condition."""

    severity: Severity
    since_ms: int
    #: The whole, as long as the members are shown one by one.
    condition: Condition | None


class _Bucket:
    """All conditions of one kind in one domain."""

    __slots__ = ("_order", "_severities", "members", "worded")

    def __init__(self) -> None:
        self.members: dict[str, _Member] = {}
        #: The words of its members are kept.
        self.worded = True
        self._severities = [0] * (max(Severity) + 1)
        #: (since, subject), oldest first, with stale entries; None while it is not needed.
        self._order: list[tuple[int, str]] | None = None

    def put(self, subject: str, member: _Member) -> None:
        self.drop(subject)
        self.members[subject] = member
        self._severities[member.severity] += 1
        if self._order is not None:
            heapq.heappush(self._order, (member.since_ms, subject))

    def drop(self, subject: str) -> None:
        held = self.members.pop(subject, None)
        if held is not None:
            self._severities[held.severity] -= 1

    @property
    def severity(self) -> Severity:
        """The worst."""
        return next(s for s in reversed(Severity) if self._severities[s])

    def forget_words(self, kind: Kind, domain: str) -> None:
        """Gives up words that can be told again, until there are few members."""
        if self.worded:
            for subject, member in self.members.items():
                if _can_be_told_again(Cause(kind, domain, subject)):
                    self.members[subject] = member._replace(condition=None)
        self.worded = False

    def oldest(self, most: int) -> list[tuple[int, str]]:
        """Those that have lasted longest, oldest first."""
        if self._order is None or len(self._order) > 2 * len(self.members) + STALE_ENTRIES:
            self._order = [(member.since_ms, s) for s, member in self.members.items()]
            heapq.heapify(self._order)
        found: list[tuple[int, str]] = []
        while self._order and len(found) < most:
            entry = heapq.heappop(self._order)
            member = self.members.get(entry[1])
            if member is not None and member.since_ms == entry[0] and entry not in found:
                found.append(entry)
        for entry in found:
            heapq.heappush(self._order, entry)
        return found


#: Tells the conditions of a source again, for those whose words were not kept.
Describe = Callable[[str], Iterable[Condition]]


class AttentionQueue:
    """The items of one controller."""

    def __init__(self, describe: Describe, group_above: int = GROUP_ABOVE) -> None:
        self._describe = describe
        self._group_above = group_above
        self._buckets: dict[tuple[Kind, str], _Bucket] = {}
        self._of_source: dict[str, tuple[Cause, ...]] = {}
        self._shown: dict[tuple[Kind, str], tuple[str, ...]] = {}
        self._dirty: set[tuple[Kind, str]] = set()
        self._items: dict[str, Item] = {}
        self._revisions: dict[str, int] = {}
        self._ended: dict[str, int] = {}
        #: Grows with every change of an item.
        self.revision = 0
        #: Changes up to here may have ended items that are not remembered.
        self.forgotten_revision = 0

    # Conditions.

    def put(self, source: str, conditions: Sequence[Condition]) -> None:
        """The conditions of a source as they are now; they replace what it had."""
        held = self._of_source.get(source, ())
        if not conditions and not held:
            return
        causes = tuple(condition.cause for condition in conditions)
        for cause in held:
            if cause not in causes:
                self._bucket(cause).drop(cause.subject)
        for condition in conditions:
            bucket = self._bucket(condition.cause)
            if condition.kind in UNDATED:
                condition = _as_first_seen(condition, bucket)
            kept = condition if bucket.worded or not _can_be_told_again(condition.cause) else None
            bucket.put(
                condition.subject,
                _Member(condition.severity, condition.since_ms, kept),
            )
        if causes:
            self._of_source[source] = causes
        else:
            del self._of_source[source]

    def since_of(self, cause: Cause) -> int | None:
        """Since when a condition stands; None when it does not."""
        bucket = self._buckets.get((cause.kind, cause.domain))
        member = bucket.members.get(cause.subject) if bucket is not None else None
        return member.since_ms if member is not None else None

    def stands(self, cause: Cause) -> bool:
        """Tells whether a condition stands, shown by itself or in a group; of a group, whether it is one."""
        return self.since_of(cause) is not None or item_id(cause) in self._items

    def subjects_of(self, kind: Kind, domain: str) -> list[str]:
        """Subjects of which a condition of one kind stands in a domain."""
        bucket = self._buckets.get((kind, domain))
        return list(bucket.members) if bucket is not None else []

    # Items.

    def refresh(self) -> None:
        """Brings the items up to date. Takes time in proportion to the kinds and domains that changed."""
        for place in self._dirty:
            fresh = {item.id: item for item in self._items_of(place)}
            for gone in self._shown.get(place, ()):
                if gone not in fresh:
                    self._end(gone)
            for id_, item in fresh.items():
                if self._items.get(id_) != item:
                    self._items[id_] = item
                    self.touch(id_)
            if fresh:
                self._shown[place] = tuple(fresh)
            else:
                self._shown.pop(place, None)
                self._buckets.pop(place, None)
        self._dirty.clear()

    def touch(self, id_: str) -> None:
        """Counts something of an item that is not kept here as a change of it: a mark."""
        if id_ in self._items:
            self.revision += 1
            self._revisions[id_] = self.revision
            self._ended.pop(id_, None)

    def get(self, id_: str) -> Item | None:
        """An item; None when there is none of this id."""
        return self._items.get(id_)

    def revision_of(self, id_: str) -> int:
        """When an item changed last."""
        return self._revisions[id_]

    def items(self) -> Iterator[Item]:
        """All items, in no order."""
        return iter(list(self._items.values()))

    def ended_after(self, revision: int) -> list[str]:
        """Ids of items that have ended since a revision."""
        return [id_ for id_, at in self._ended.items() if at > revision]

    def _end(self, id_: str) -> None:
        del self._items[id_]
        del self._revisions[id_]
        self.revision += 1
        self._ended.pop(id_, None)
        self._ended[id_] = self.revision
        if len(self._ended) > MAX_ENDED:
            oldest = next(iter(self._ended))
            self.forgotten_revision = self._ended.pop(oldest)

    def _bucket(self, cause: Cause) -> _Bucket:
        place = (cause.kind, cause.domain)
        self._dirty.add(place)
        bucket = self._buckets.get(place)
        if bucket is None:
            bucket = self._buckets[place] = _Bucket()
        return bucket

    def _items_of(self, place: tuple[Kind, str]) -> Iterator[Item]:
        bucket = self._buckets[place]
        if len(bucket.members) > self._group_above:
            bucket.forget_words(*place)
            yield _group(place, bucket)
            return
        bucket.worded = True
        for subject, member in bucket.members.items():
            condition = member.condition or self._told_again(Cause(*place, subject), member)
            if condition is not None:
                bucket.members[subject] = member._replace(condition=condition)
                yield _single(condition)

    def _told_again(self, cause: Cause, member: _Member) -> Condition | None:
        """A condition with its words. What changed meanwhile is put anew by whoever saw the change."""
        told = next((c for c in self._describe(cause.subject) if c.cause == cause), None)
        return replace(told, since_ms=member.since_ms) if told is not None else None


def _can_be_told_again(cause: Cause) -> bool:
    return cause.subject.startswith(NODES) and cause.kind in FROM_FACTS


def _as_first_seen(condition: Condition, bucket: _Bucket) -> Condition:
    held = bucket.members.get(condition.subject)
    if held is None or held.since_ms >= condition.since_ms:
        return condition
    return replace(condition, since_ms=held.since_ms)


def _single(condition: Condition) -> Item:
    return Item(
        item_id(condition.cause),
        condition.kind,
        condition.domain,
        condition.subject,
        condition.severity,
        condition.since_ms,
        condition.words,
        condition.next_step,
        condition.extent,
        condition.nodes,
    )


def _group(place: tuple[Kind, str], bucket: _Bucket) -> Item:
    kind, domain = place
    subject = f"domains/{domain}"
    oldest = bucket.oldest(EXAMPLES)
    since_ms = oldest[0][0]
    count = len(bucket.members)
    since = datetime.fromtimestamp(since_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    noun = GROUP_NOUNS.get(kind)
    told = (
        f"{count} {noun} in {domain}"
        if noun is not None
        else f"{count} nodes of {domain} {GROUP_WORDS[kind]}"
    )
    return Item(
        item_id(Cause(kind, domain, subject)),
        kind,
        domain,
        subject,
        bucket.severity,
        since_ms,
        f"{told}, the first since {since}",
        GROUP_STEPS.get(kind, ANY_GROUP_STEP).format(domain=domain),
        1.0,
        count,
        tuple(subject for _, subject in oldest),
    )
