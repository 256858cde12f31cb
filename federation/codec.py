"""Turns event bytes into `Write`s and drafts into event bytes. The only module of the core that reads bodies'
names; it never changes bytes that came from elsewhere.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from google.protobuf.message import DecodeError

from federation.causality import EMPTY, Context
from federation.errors import InvalidWrite
from federation.identifiers import Dot, Lane, Origin, StreamId, as_dot
from souverix.event.v1 import event_pb2

Term = tuple[int, ...]

#: Names of streams kept from one message to the next: they come with every run and acknowledgement.
STREAMS_KEPT: Final = 16_384


class AspectRule(NamedTuple):
    """How one aspect behaves."""

    lane: Lane
    #: Concurrent values are a conflict for operators. False where one writer owns the key, or a later value says all.
    contested: bool
    #: Counted in sync debt as (seed 2): message, config, policy or version.
    backlog_kind: str


#: Every body of `Event`, by field name. Each aspect lives in one lane.
ASPECTS: Final[dict[str, AspectRule]] = {
    "genesis": AspectRule(Lane.CONTROL, False, "policy"),
    "authority": AspectRule(Lane.CONTROL, True, "policy"),
    "authority_release": AspectRule(Lane.CONTROL, False, "policy"),
    "key_grant": AspectRule(Lane.CONTROL, False, "policy"),
    "key_succession": AspectRule(Lane.CONTROL, False, "policy"),
    "stream_sealed": AspectRule(Lane.CONTROL, False, "policy"),
    "run_decision": AspectRule(Lane.CONTROL, False, "policy"),
    "certificate_authority": AspectRule(Lane.CONTROL, False, "policy"),
    "admission": AspectRule(Lane.CONTROL, False, "message"),
    "domain_spec": AspectRule(Lane.CONTROL, True, "config"),
    "placement": AspectRule(Lane.CONTROL, True, "config"),
    "existence": AspectRule(Lane.CONTROL, True, "config"),
    "policy": AspectRule(Lane.CONTROL, True, "policy"),
    "command": AspectRule(Lane.CONTROL, False, "message"),
    "command_cancel": AspectRule(Lane.CONTROL, False, "message"),
    "delivery": AspectRule(Lane.CONTROL, False, "message"),
    "node_spec": AspectRule(Lane.STATE, True, "config"),
    "desired_state": AspectRule(Lane.STATE, True, "version"),
    "actual_state": AspectRule(Lane.STATE, False, "message"),
    "link_state": AspectRule(Lane.STATE, False, "message"),
    "lifecycle": AspectRule(Lane.STATE, True, "config"),
    "conflict": AspectRule(Lane.STATE, False, "message"),
    "drift_waiver": AspectRule(Lane.STATE, True, "config"),
    "agent_key": AspectRule(Lane.STATE, False, "config"),
    "return_incident": AspectRule(Lane.STATE, False, "message"),
    "attention_mark": AspectRule(Lane.STATE, False, "message"),
    "relationship": AspectRule(Lane.STATE, True, "config"),
    "peer_link": AspectRule(Lane.STATE, False, "message"),
    "inventory": AspectRule(Lane.TELEMETRY, False, "message"),
    "audit": AspectRule(Lane.AUDIT, False, "message"),
    "artifact": AspectRule(Lane.STATE, True, "version"),
    "artifact_verdict": AspectRule(Lane.STATE, False, "message"),
    "role_binding": AspectRule(Lane.CONTROL, True, "policy"),
    "enrolment_token": AspectRule(Lane.CONTROL, False, "policy"),
    "enrolment": AspectRule(Lane.CONTROL, False, "message"),
    "revocation": AspectRule(Lane.CONTROL, False, "policy"),
    "node_sbom": AspectRule(Lane.STATE, False, "message"),
    "supply_policy": AspectRule(Lane.CONTROL, True, "policy"),
    "attestation_policy": AspectRule(Lane.CONTROL, True, "policy"),
    "attestation": AspectRule(Lane.STATE, False, "message"),
    "attestation_baseline": AspectRule(Lane.STATE, True, "config"),
    "attestation_demand": AspectRule(Lane.STATE, False, "message"),
}

BACKLOG_KINDS: Final = ("message", "config", "policy", "version")


class Write(NamedTuple):
    """One event as merge sees it. A tuple for speed: a backlog makes hundreds of thousands a second."""

    origin: Origin
    sequence: int
    stamp: int
    subject: str
    aspect: str
    context: Context
    term: Term
    request_id: str
    principal: str
    optimistic: bool
    resolves: Context
    raw: bytes

    @property
    def dot(self) -> Dot:
        """The write's place among the writes of its key."""
        return Dot(self.origin, self.sequence)

    def event(self) -> event_pb2.Event:
        """The whole event."""
        return event_pb2.Event.FromString(self.raw)

    def body(self) -> Any:
        """The value: the message of the body's aspect."""
        return getattr(event_pb2.Event.FromString(self.raw), self.aspect)


_parse = event_pb2.Event.FromString
_parse_run = event_pb2.RunEvents.FromString

#: Events of a run from which on they are parsed together: below it that costs more than it saves.
TOGETHER: Final = 4

#: Makes a `Write` of a tuple of its fields in their order.
as_write: Final[Callable[[tuple[Any, ...]], Write]] = functools.partial(tuple.__new__, Write)


class EventDecoder:
    """Decodes events of many streams, sharing one object among equal origins."""

    __slots__ = ("_origins",)

    def __init__(self) -> None:
        self._origins: dict[tuple[str, int], Origin] = {}

    def decode(self, stream: StreamId, sequence: int, raw: bytes) -> Write | None:
        """The write an event stands for; None for a body this version does not know, which is kept and passed on.

        Raises `InvalidWrite` for bytes that are no event, or a lane that is not the aspect's.
        """
        try:
            event = _parse(raw)
        except DecodeError as error:
            raise InvalidWrite(f"event {sequence} of {stream} is not a protobuf Event") from error
        aspect = _aspect_in(stream, event)
        return None if aspect is None else self._write(stream[1], sequence, event, aspect, raw)

    def decode_run(
        self, stream: StreamId, run: event_pb2.Run, events: Sequence[bytes]
    ) -> list[Write | None]:
        """As `decode`, for all events of a run, `events` being those of `run`. They are parsed together, at a third of
        what each costs alone.
        """
        first = run.first_sequence
        if len(events) < TOGETHER:
            return [self.decode(stream, number, raw) for number, raw in enumerate(events, first)]
        try:
            parsed = _parse_run(run.SerializeToString()).events
        except DecodeError:
            # One of them is no event, or is nested as deep as a message may be: each is to be judged by itself.
            return [self.decode(stream, number, raw) for number, raw in enumerate(events, first)]
        origin, write = stream[1], self._write
        writes: list[Write | None] = []
        for number, (event, raw) in enumerate(zip(parsed, events, strict=True), first):
            aspect = _aspect_in(stream, event)
            writes.append(None if aspect is None else write(origin, number, event, aspect, raw))
        return writes

    def decode_stored(self, origin: Origin, sequence: int, raw: bytes) -> Write | None:
        """As `decode`, for an event that came into effect before."""
        event = _parse(raw)
        aspect = event.WhichOneof("body")
        return self._write(origin, sequence, event, aspect, raw) if aspect in ASPECTS else None

    def origin(self, controller: str, incarnation: int) -> Origin:
        """The one object that stands for an origin."""
        name = (controller, incarnation)
        known = self._origins.get(name)
        if known is None:
            known = self._origins[name] = Origin(*name)
        return known

    def _write(
        self, origin: Origin, sequence: int, event: event_pb2.Event, aspect: str, raw: bytes
    ) -> Write:
        others, own_seen, resolves = event.context, event.own_seen, event.resolves
        context = self._dots(others) if others else EMPTY
        if own_seen:
            own = as_dot((origin, own_seen))
            context = tuple(sorted((*context, own))) if context else (own,)
        return as_write(
            (
                origin,
                sequence,
                event.stamp,
                event.subject,
                aspect,
                context,
                tuple(event.term[:]),
                event.request_id,
                event.principal,
                event.optimistic,
                self._dots(resolves) if resolves else EMPTY,
                raw,
            ),
        )

    def _dots(self, messages: Any) -> Context:
        origins = self._origins
        dots = []
        for message in messages:
            name = (message.controller, message.incarnation)
            origin = origins.get(name)
            if origin is None:
                origin = origins[name] = Origin(*name)
            dots.append(as_dot((origin, message.sequence)))
        return tuple(dots)


def _aspect_in(stream: StreamId, event: event_pb2.Event) -> str | None:
    """The aspect of an event; None for a body this version does not know. Raises `InvalidWrite` for another lane's."""
    aspect: str | None = event.WhichOneof("body")
    rule = ASPECTS.get(aspect) if aspect is not None else None
    if rule is None:
        return None
    if rule[0] != stream[2]:
        raise InvalidWrite(
            f"aspect {aspect} belongs in lane {rule.lane.name}, not {stream.lane.name}"
        )
    return aspect


def encode_event(
    origin: Origin,
    subject: str,
    aspect: str,
    body: Any,
    *,
    stamp: int,
    context: Context,
    term: Term,
    request_id: str,
    principal: str,
    optimistic: bool,
    resolves: Context,
    report: tuple[str, int] | None,
    moved_from: event_pb2.MovedFrom | None,
) -> bytes:
    """The bytes of a new event. Its body is serialised on its own and follows the head, which is the same to a reader
    and spares a copy of the body.
    """
    head = event_pb2.Event(stamp=stamp, subject=subject, term=term, principal=principal)
    for dot in context:
        if dot[0] == origin:
            head.own_seen = dot[1]
        else:
            head.context.append(dot_to_message(dot))
    if request_id:
        head.request_id = request_id
    if optimistic:
        head.optimistic = True
    if resolves:
        head.resolves.extend(dot_to_message(dot) for dot in resolves)
    if report is not None:
        head.report_source, head.report_sequence = report
    if moved_from is not None:
        head.moved_from.CopyFrom(moved_from)
    value: bytes = body.SerializeToString()
    return b"".join((head.SerializeToString(), _BODY_TAGS[aspect], _varint(len(value)), value))


def _varint(number: int) -> bytes:
    """A length as protobuf writes it: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


#: What precedes each body on the wire: its field number, and that a length follows.
_LENGTH_DELIMITED: Final = 2
_BODY_TAGS: Final = {
    field.name: _varint(field.number << 3 | _LENGTH_DELIMITED)
    for field in event_pb2.Event.DESCRIPTOR.oneofs_by_name["body"].fields
}


def stream_to_message(stream: StreamId) -> event_pb2.StreamId:
    """The wire form of a stream's name."""
    return event_pb2.StreamId(
        domain=stream.domain,
        controller=stream.origin.controller,
        incarnation=stream.origin.incarnation,
        lane=int(stream.lane),  # type: ignore[arg-type]
    )


def stream_from_message(message: event_pb2.StreamId) -> StreamId:
    """The stream a wire form names. Raises `InvalidWrite` where a part is missing or the lane unknown."""
    return _stream_named(message.domain, message.controller, message.incarnation, message.lane)


@functools.lru_cache(STREAMS_KEPT)
def _stream_named(domain: str, controller: str, incarnation: int, number: int) -> StreamId:
    try:
        lane = Lane(number)
    except ValueError as error:
        raise InvalidWrite(f"lane {number} is not known") from error
    if not domain or not controller or incarnation < 1:
        raise InvalidWrite("a stream needs a domain, a controller and an incarnation from 1")
    return StreamId(domain, Origin(controller, incarnation), lane)


def dot_to_message(dot: Dot) -> event_pb2.Dot:
    """The wire form of a dot."""
    return event_pb2.Dot(
        controller=dot.origin.controller, incarnation=dot.origin.incarnation, sequence=dot.sequence
    )
