"""The events behind a node: newest first, page by page. Owns their view and what a page token holds; reading them back
is `node_past`'s.
"""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.json_format import MessageToDict

from controller.query.lineage import Place, places_of
from controller.replica import Replica
from controller.services.fleet_fields import id_in_name
from controller.services.fleet_rules import freshness_of, required_node
from controller.services.node_past import OutOfReach, PastReader, Walk
from controller.services.paging import page_of
from controller.twin.facts import effective_ms, set_time
from controller.twin.node import NODE_ASPECTS
from federation.codec import Write
from federation.errors import InvalidWrite
from federation.identifiers import Dot, Key, Origin
from federation.state import State
from souverix.event.v1 import event_pb2
from souverix.fleet.v1 import fleet_service_pb2, history_pb2


async def list_node_events(
    replica: Replica, request: Any
) -> fleet_service_pb2.ListNodeEventsResponse:
    """As `FleetService.ListNodeEvents`."""
    subject = f"nodes/{id_in_name(request.name, 'nodes')}"
    page = page_of(request)
    start_ms, end_ms = _times(request)
    at = required_node(replica.state, subject)
    for aspect in request.aspects:
        if aspect not in NODE_ASPECTS:
            raise InvalidWrite(
                f"aspects names {aspect[:80]!r}; the aspects of a node are {', '.join(NODE_ASPECTS)}",
                field="aspects",
            )
    reader = PastReader(replica)
    starts = (
        _read_places(page.after, subject)
        if page.after
        else _newest(replica.state, subject, frozenset(request.aspects or NODE_ASPECTS))
    )
    walk = Walk(reader, starts)
    reply = fleet_service_pb2.ListNodeEventsResponse(
        as_of_time=freshness_of(replica).as_of(at.home.domain)
    )
    goes_on = False
    try:
        async for past in walk.events():
            if start_ms is not None and past.time_ms < start_ms:
                break
            if end_ms is None or past.time_ms < end_ms:
                message = event_message(replica.state, past.place, past.write, past.event)
                _fill_receipt(message, past.offset, past.time_ms)
                reply.events.append(message)
            if len(reply.events) >= page.size:
                goes_on = bool(walk.left)
                break
    except OutOfReach:
        goes_on = True
    if goes_on:
        reply.next_page_token = page.token(_write_places(walk.left))
    reply.earlier_events_missing = reader.missing > 0
    return reply


def event_message(
    state: State, place: Place, write: Write, event: event_pb2.Event
) -> history_pb2.NodeEvent:
    """An event as clients see it, without its receipt."""
    key, origin = place.key, place.dot.origin
    message = history_pb2.NodeEvent(
        subject=key.subject,
        aspect=key.aspect,
        domain=key.domain,
        controller=origin.controller,
        incarnation=origin.incarnation,
        sequence=place.dot.sequence,
        principal=write.principal,
        request_id=write.request_id,
        optimistic=write.optimistic,
        standing=_standing(state, key, place.dot),
        moved_from_domain=event.moved_from.domain,
        report_sequence=event.report_sequence,
    )
    set_time(message.time, effective_ms(state, key, write))
    document = MessageToDict(getattr(event, key.aspect), preserving_proto_field_name=True)
    if document:
        message.document.update(document)
    return message


def held_event(replica: Replica, key: Key, write: Write) -> history_pb2.NodeEvent:
    """An event that is at hand, with its receipt."""
    place = Place(key, write.dot)
    message = event_message(replica.state, place, write, write.event())
    reader = PastReader(replica)
    offset, time_ms = reader.offset(place), reader.time_ms(place)
    if offset is not None and time_ms is not None:
        _fill_receipt(message, offset, time_ms)
    return message


def _fill_receipt(message: history_pb2.NodeEvent, offset: int, time_ms: int) -> None:
    message.log_offset = offset
    set_time(message.receive_time, time_ms)


def _standing(state: State, key: Key, dot: Dot) -> history_pb2.EventStanding:
    if all(write.dot != dot for write in state.siblings(key)):
        return history_pb2.EVENT_STANDING_SUPERSEDED
    winner = state.winner(key)
    if winner is not None and winner.dot == dot:
        return history_pb2.EVENT_STANDING_CURRENT
    return history_pb2.EVENT_STANDING_RIVAL


def _newest(state: State, subject: str, aspects: frozenset[str]) -> list[Place]:
    """Where the ways back begin: what stands of a node, wherever it lived."""
    return [
        place
        for domain in state.domains_of_subject.get(subject, ())
        for aspect, siblings in state.table.glance(domain, subject).items()
        if aspect in aspects
        for place in places_of(Key(domain, subject, aspect), siblings)
    ]


def _times(request: Any) -> tuple[int | None, int | None]:
    start = request.start_time.ToMilliseconds() if request.HasField("start_time") else None
    end = request.end_time.ToMilliseconds() if request.HasField("end_time") else None
    if start is not None and end is not None and end < start:
        raise InvalidWrite("end_time is before start_time", field="end_time")
    return start, end


def _write_places(places: list[Place]) -> str:
    """Places for a page token; the names, which repeat, once each."""
    names: dict[str, int] = {}
    told = [
        [
            names.setdefault(place.key.domain, len(names)),
            NODE_ASPECTS.index(place.key.aspect),
            names.setdefault(place.dot.origin.controller, len(names)),
            place.dot.origin.incarnation,
            place.dot.sequence,
        ]
        for place in places
    ]
    return json.dumps([list(names), told], separators=(",", ":"))


def _read_places(told: str, subject: str) -> list[Place]:
    """The places of a page token. Raises `InvalidWrite`."""
    try:
        names, numbers = json.loads(told)
        return [
            Place(
                Key(str(names[domain]), subject, NODE_ASPECTS[aspect]),
                Dot(Origin(str(names[controller]), int(incarnation)), int(sequence)),
            )
            for domain, aspect, controller, incarnation, sequence in numbers
        ]
    except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
        raise InvalidWrite(
            "page_token is not one this service made; begin again without it", field="page_token"
        ) from error
