"""Conflicts for operators: listing, watching, and the write that restores a losing value. Owns their form and the
rules of that write; which conflicts there are is the core's to say.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import Any

from google.protobuf import json_format

from controller.replica import Replica
from controller.services.fleet_fields import check_domain_filter, id_in_name
from controller.services.fleet_rules import (
    Permissions,
    check_autonomy,
    check_etag,
    permissions_for_policy,
    permissions_to_declare,
)
from controller.services.paging import cut, page_of
from controller.services.watching import StepKind, Watch
from controller.twin.facts import Facts, state_of, timestamp
from controller.writes import Caller, Draft, Forwarded, WriteCall
from federation.authority import Permission
from federation.clock import wall_ms_of
from federation.codec import Write
from federation.errors import InvalidWrite, NotFound, WrongState
from federation.identifiers import Key
from federation.merge import Siblings, conflict_id_of, etag_of, rivals_of, winner_of
from federation.state import Applied, State
from souverix.event.v1 import event_pb2
from souverix.federation.v1 import conflict_pb2
from souverix.federation.v1 import federation_service_pb2 as service

METHOD = "/souverix.federation.v1.FederationService/RestoreConflictValue"

#: A page ends early beyond this: conflicts carry their values, and clients take messages up to 4 MiB.
MAX_PAGE_BYTES = 2 * 1024 * 1024

#: Above every stamp: turns newest first into the ascending order of page tokens.
END_OF_TIME = 1 << 64


def list_conflicts(
    state: State, request: service.ListConflictsRequest
) -> service.ListConflictsResponse:
    """A page of recorded conflicts, newest first. Raises `InvalidWrite`."""
    check_domain_filter(request.domain)
    page = page_of(request)
    ledger = state.conflicts
    found = (
        conflict_id
        for conflict_id, (key, _) in ledger.recorded.items()
        if (not request.domain or key.domain == request.domain)
        and (not request.only_open or ledger.open_keys.get(key) == conflict_id)
    )

    def newest_first(conflict_id: str) -> str:
        return f"{END_OF_TIME - ledger.recorded[conflict_id][1].stamp:017x}/{conflict_id}"

    on_page, token = cut(found, page, newest_first)
    response = service.ListConflictsResponse(next_page_token=token)
    size = 0
    for conflict_id in on_page:
        conflict = _shown(state, conflict_id)
        size += conflict.ByteSize()
        if size > MAX_PAGE_BYTES and response.conflicts:
            last = response.conflicts[-1].record.conflict_id
            response.next_page_token = page.token(newest_first(last))
            break
        response.conflicts.append(conflict)
    return response


def get_conflict(state: State, name: str) -> service.Conflict:
    """One conflict. Raises `InvalidWrite`, `NotFound`."""
    return _shown(state, _recorded(state, name)[0])


async def watch_conflicts(
    replica: Replica, request: service.WatchConflictsRequest
) -> AsyncGenerator[service.Conflict, None]:
    """Open conflicts, then each that is recorded or resolved. Raises `InvalidWrite`, `SlowWatcher`."""
    check_domain_filter(request.domain)
    view = _ConflictView(replica.state, request.domain)
    log = replica.log_nonce
    watch = Watch(replica.state, replica.changes, view, request, log)
    async for step in watch.steps(""):
        if step.kind is not StepKind.BOOKMARK and step.resource is not None:
            yield step.resource


async def restore_value(
    replica: Replica, request: service.RestoreConflictValueRequest, caller: Caller
) -> service.RestoreConflictValueResponse:
    """Writes one of the rivals again, having seen all of them.

    Raises core errors, journal errors, `ServiceError`, `ForwardedStatus`.
    """
    state = replica.state
    conflict_id, key = _recorded(state, request.name)
    if not request.controller:
        raise InvalidWrite("controller is required: whose value to restore", field="controller")
    if key.aspect == "authority":
        raise WrongState(
            f"the authority of {key.domain} is moved by TransferAuthority; the record it writes settles this conflict",
            domain=key.domain,
        )
    sibling = _chosen(state.conflicts.recorded[conflict_id][1].body(), request)
    # From the record, for a repeated request finds its conflict over.
    permissions = _permissions(key, _event_of(state, key, sibling))

    def decide(draft: Draft) -> None:
        check_autonomy(draft, permissions)
        rivals = _standing_rivals(draft.proposal, conflict_id, key)
        held = draft.proposal.siblings(key)
        etag = etag_of(held, winner_of(key, held, state.rank))
        check_etag(request.etag, etag, f"{key.subject} {key.aspect}")
        draft.write(*key, _restored_body(key, sibling, rivals))

    done = await replica.writer.execute(
        WriteCall(
            caller=caller,
            method=METHOD,
            request=request,
            domain=key.domain,
            resource=f"domains/{key.domain}/{key.subject}",
            permission=permissions[0],
            decide=decide,
            request_id=request.request_id,
            validate_only=request.validate_only,
            durable_at=request.durable_at,
        )
    )
    if isinstance(done, Forwarded):
        return service.RestoreConflictValueResponse.FromString(done.response)
    return service.RestoreConflictValueResponse(
        conflict=_shown(state, conflict_id), receipt=done.receipt
    )


class _ConflictView:
    """What a watch of conflicts shows (`watching.View`): what is open, what is new, and what ceased to be open."""

    def __init__(self, state: State, domain: str) -> None:
        self._state = state
        self._domain = domain
        self._open: dict[Key, str] = {}

    def items(self) -> Iterable[str]:
        """Recorded conflicts that are open."""
        ledger = self._state.conflicts
        return [i for key, i in ledger.open_keys.items() if i in ledger.recorded]

    def touched(self, applied: Applied) -> Iterator[str]:
        """Conflicts that a commit recorded, and shown ones whose rivals it settled."""
        for key in applied.keys:
            if key.aspect == "conflict":
                yield key.subject.partition("/")[2]
            elif key in self._open and self._state.conflicts.open_keys.get(key) != self._open[key]:
                yield self._open.pop(key)

    def keys(self, item: str) -> Iterable[Key]:
        """The key whose rivals a conflict is about."""
        recorded = self._state.conflicts.recorded.get(item)
        return (recorded[0],) if recorded is not None else ()

    def show(self, item: str) -> service.Conflict | None:
        """The conflict as it is."""
        recorded = self._state.conflicts.recorded.get(item)
        if recorded is None or (self._domain and recorded[0].domain != self._domain):
            return None
        conflict = _shown(self._state, item)
        if conflict.open:
            self._open[recorded[0]] = item
        return conflict


def _recorded(state: State, name: str) -> tuple[str, Key]:
    conflict_id = id_in_name(name, "conflicts")
    found = state.conflicts.recorded.get(conflict_id)
    if found is None:
        raise NotFound(f"{name} is not recorded here", subject=name)
    return conflict_id, found[0]


def _shown(state: State, conflict_id: str) -> service.Conflict:
    key, write = state.conflicts.recorded[conflict_id]
    record = write.body()
    conflict = service.Conflict(
        name=f"conflicts/{conflict_id}",
        record=record,
        open=state.conflicts.open_keys.get(key) == conflict_id,
        record_time=timestamp(wall_ms_of(write.stamp)),
    )
    for sibling in record.siblings:
        value = conflict.values.add()
        event = _event_of(state, key, sibling)
        if event.WhichOneof("body") == key.aspect:
            value.update(json_format.MessageToDict(getattr(event, key.aspect)))
    return conflict


def _event_of(state: State, key: Key, sibling: conflict_pb2.ConflictSibling) -> event_pb2.Event:
    """A sibling's event, from the record or from what stands; empty when neither holds it."""
    raw = sibling.event or next(
        (w.raw for w in state.siblings(key) if _is_write_of(w, sibling)), b""
    )
    return event_pb2.Event.FromString(raw)


def _is_write_of(write: Write, sibling: conflict_pb2.ConflictSibling) -> bool:
    return write.origin == (sibling.controller, sibling.incarnation) and (
        write.sequence == sibling.sequence
    )


def _standing_rivals(facts: Facts, conflict_id: str, key: Key) -> Siblings:
    """The rivals of an open conflict. Raises `WrongState` when it is over."""
    rivals = rivals_of(key, facts.siblings(key), state_of(facts).rank)
    if not rivals or conflict_id_of(key, tuple(r.dot for r in rivals)) != conflict_id:
        newer = state_of(facts).conflicts.open_keys.get(key)
        raise WrongState(
            f"conflicts/{conflict_id} is over: "
            + (
                f"more values came, see conflicts/{newer}"
                if rivals and newer
                else f"{key.subject} was written by someone who had seen all of its values; write it anew instead"
            ),
            subject=key.subject,
            domain=key.domain,
        )
    return rivals


def _chosen(
    record: conflict_pb2.ConflictRecord, request: service.RestoreConflictValueRequest
) -> conflict_pb2.ConflictSibling:
    found = [
        s
        for s in record.siblings
        if s.controller == request.controller and request.sequence in (0, s.sequence)
    ]
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{s.controller}:{s.sequence}" for s in record.siblings)
    which = "several siblings are" if found else "no sibling is"
    raise InvalidWrite(
        f"{which} {request.controller}:{request.sequence or 'any'}; the siblings are {known}: name one by controller "
        "and sequence",
        field="sequence" if found else "controller",
    )


def _permissions(key: Key, event: event_pb2.Event) -> Permissions:
    """What autonomy must allow for the value to be written in the master's place: the same as for any such write."""
    if key.aspect == "policy":
        return permissions_for_policy(event.policy)
    if key.aspect == "desired_state":
        return permissions_to_declare(event.desired_state)
    if key.aspect == "drift_waiver":
        return (Permission.POLICIES,)
    return (Permission.OPERATE,)


def _restored_body(key: Key, sibling: conflict_pb2.ConflictSibling, rivals: Siblings) -> Any:
    """The value to write. A placement takes the next epoch: nodes refuse frames under one they have left behind."""
    body = next(r for r in rivals if _is_write_of(r, sibling)).body()
    if key.aspect == "placement":
        body.epoch = max(rival.body().epoch for rival in rivals) + 1
    return body
