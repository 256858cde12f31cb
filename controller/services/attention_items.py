"""Items of the attention queue as clients see them: which are asked for, their order, their form. Owns filters, the
bounds of an answer, and the composition of `AttentionItem`; which items there are is the queue's to say.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from heapq import nlargest
from typing import Any, NamedTuple

from controller.attention.conditions import CONNECTIVITY, Kind
from controller.attention.marks import MarkState, counts, state_of
from controller.attention.queue import Item
from controller.attention.rules import Score, score_of
from controller.attention_feed import AttentionFeed
from controller.replica import Replica
from controller.services.fleet_rules import freshness_of
from controller.services.scopes import Scope
from controller.twin.facts import Facts, digest_of, effective_ms, held_of, set_time
from controller.twin.facts import state_of as committed
from controller.twin.freshness import Freshness
from federation.codec import Write
from federation.errors import InvalidWrite
from federation.identifiers import Key
from souverix.attention.v1 import attention_pb2

#: Items of one domain in an answer: more are no list that somebody works through.
TOP_PER_DOMAIN = 100

#: Items in all of an answer's pages.
TOP_OF_ALL = 1000

#: Kinds or states in one filter: more than there are.
MAX_FILTER_VALUES = 64

MARK_ASPECTS = ("attention_mark",)


class Shown(NamedTuple):
    """An item with what is known of it now."""

    item: Item
    score: Score
    state: MarkState
    mark: Write | None

    @property
    def order(self) -> tuple[float, str]:
        """Highest score first; of equal ones the id decides, the same at every controller."""
        return -self.score.value, self.item.id


class ItemFilter:
    """Which items a list or a watch asks for. Raises `InvalidWrite`, `NotFound` for what no query may be."""

    def __init__(self, replica: Replica, request: Any) -> None:
        self._scope = Scope(replica.state, request)
        for name, known in (("kinds", Kind), ("states", MarkState)):
            values = getattr(request, name)
            if len(values) > MAX_FILTER_VALUES or not set(values) <= {int(each) for each in known}:
                raise InvalidWrite(f"{name} holds a value that is none of them", field=name)
        if not 0 <= request.min_score < math.inf:
            raise InvalidWrite(
                "min_score is negative or no number; leave it out for any", field="min_score"
            )
        self._kinds = frozenset(request.kinds)
        self._states = frozenset(request.states) or frozenset({MarkState.OPEN})
        self._min_score: float = request.min_score

    def may_hold(self, item: Item) -> bool:
        """Tells by what an item is whether it can be asked for."""
        if self._kinds and item.kind not in self._kinds:
            return False
        return self._scope.holds(item.domain)

    def holds(self, shown: Shown) -> bool:
        """Tells whether an item as it is now is asked for."""
        return shown.state in self._states and shown.score.value >= self._min_score


class ItemReader:
    """Reads items for answers."""

    def __init__(self, replica: Replica, feed: AttentionFeed) -> None:
        self._replica = replica
        self._feed = feed

    def select(self, wanted: ItemFilter, now_ms: int) -> tuple[list[Shown], int]:
        """The items asked for, highest score first and bounded; and how many were left out."""
        freshness = freshness_of(self._replica)
        by_domain: dict[str, list[Shown]] = defaultdict(list)
        found = 0
        for item in self._feed.queue.items():
            if wanted.may_hold(item) and is_known_now(item, freshness):
                shown = self.look_at(item, now_ms, self._replica.state)
                if wanted.holds(shown):
                    by_domain[item.domain].append(shown)
                    found += 1
        tops = (
            shown
            for of_domain in by_domain.values()
            for shown in nlargest(TOP_PER_DOMAIN, of_domain, key=_precedence)
        )
        selected = nlargest(TOP_OF_ALL, tops, key=_precedence)
        return selected, found - len(selected)

    def look_at(self, item: Item, now_ms: int, facts: Facts) -> Shown:
        """An item as it is now."""
        mark = facts.winner(mark_key(item))
        path = committed(facts).authority.path_of(item.domain) or (item.domain,)
        score = score_of(
            self._feed.weights,
            item.kind,
            item.severity,
            (now_ms - item.since_ms) / 1000,
            item.nodes,
            item.extent,
            path,
        )
        return Shown(item, score, state_of(mark.body() if mark else None, item, now_ms), mark)

    def messages(self, shown: list[Shown]) -> Iterator[attention_pb2.AttentionItem]:
        """Items as messages."""
        freshness = freshness_of(self._replica)
        for each in shown:
            yield compose_item(self._replica.state, each, freshness)


def compose_item(facts: Facts, shown: Shown, freshness: Freshness) -> attention_pb2.AttentionItem:
    """An item as clients see it."""
    item, score = shown.item, shown.score
    message = attention_pb2.AttentionItem(
        name=item_name(item.id),
        id=item.id,
        kind=int(item.kind),  # type: ignore[arg-type]
        domain=item.domain,
        subject=item.subject,
        severity=int(item.severity),  # type: ignore[arg-type]
        score=score.value,
        score_parts=attention_pb2.ScoreParts(**score._asdict()),
        cause=item.words,
        next_step=item.next_step,
        node_count=item.nodes,
        examples=item.examples,
        state=int(shown.state),  # type: ignore[arg-type]
        etag=item_etag(facts, item),
    )
    set_time(message.since, item.since_ms)
    as_of_ms = freshness.as_of_ms(item.domain)
    if as_of_ms is not None:
        set_time(message.as_of_time, as_of_ms)
    unknown_since_ms = freshness.unknown_since_ms(item.domain)
    if unknown_since_ms is not None:
        set_time(message.unknown_since, unknown_since_ms)
    if shown.mark is not None:
        mark: attention_pb2.AttentionMark = shown.mark.body()
        if counts(mark, item):
            message.mark.CopyFrom(mark)
            message.mark_principal = shown.mark.principal
            set_time(message.mark_time, effective_ms(committed(facts), mark_key(item), shown.mark))
    return message


def is_known_now(item: Item, freshness: Freshness) -> bool:
    """Tells whether an item can be known: how nodes are connected is not, while their controller is out of reach."""
    return item.kind not in CONNECTIVITY or freshness.unknown_since_ms(item.domain) is None


def mark_key(item: Item) -> Key:
    """Where the mark of an item stands."""
    return Key(item.domain, item_name(item.id), "attention_mark")


def item_name(id_: str) -> str:
    """The resource name of an item."""
    return f"attention/{id_}"


def item_etag(facts: Facts, item: Item) -> str:
    """Changes with each mark."""
    return digest_of(facts, held_of(facts, item.domain, item_name(item.id), MARK_ASPECTS))


def _precedence(shown: Shown) -> tuple[float, tuple[int, ...]]:
    """As `Shown.order`, ascending."""
    return shown.score.value, tuple(-ord(digit) for digit in shown.item.id)
