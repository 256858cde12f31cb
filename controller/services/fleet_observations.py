"""Observations of nodes, and the large values they name. Owns their view; keeps none.

Kept here is the newest observation of each type; older ones stand in the event log only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from google.protobuf.json_format import MessageToDict

from controller.replica import Replica
from controller.services.fleet_fields import check_id, check_time
from controller.services.fleet_rules import freshness_of, required_node
from controller.services.paging import cut, page_of
from controller.twin.facts import timestamp
from controller.twin.marks import NAMES_VALUES, may_be
from controller.twin.node import observation_id
from controller.values import DIGEST_PATTERN, ChunkMissing, ValueStore
from federation.clock import wall_ms_of
from federation.codec import Write
from federation.errors import InvalidWrite, NotFound
from federation.identifiers import Key
from federation.scan import Scan
from federation.state import State
from souverix.fleet.v1 import fleet_service_pb2, observation_pb2

#: Aspects that are observations, and which kind each is.
OBSERVED_ASPECTS = {
    "inventory": observation_pb2.OBSERVATION_KIND_SNAPSHOT,
    "actual_state": observation_pb2.OBSERVATION_KIND_SNAPSHOT,
    "link_state": observation_pb2.OBSERVATION_KIND_EVENT,
}

#: Types in one filter.
MAX_TYPES = 64


#: Highest stamp there is, to sort newest first by text.
_LAST_STAMP = 2**64 - 1


def list_observations(replica: Replica, request: Any) -> fleet_service_pb2.ListObservationsResponse:
    """As `FleetService.ListObservations`: newest first."""
    node_id = check_id(request.node, "node")
    if len(request.types) > MAX_TYPES:
        raise InvalidWrite(f"types holds more than {MAX_TYPES} values", field="types")
    at = required_node(replica.state, f"nodes/{node_id}")
    page = page_of(request)
    types = frozenset(request.types)
    start, end = check_time(request, "start_time"), check_time(request, "end_time")
    fitting = [
        write
        for write in _observations(replica.state, at.home.domain, at.subject)
        if (not types or write.aspect in types)
        and (start is None or wall_ms_of(write.stamp) * 1_000_000 >= start)
        and (end is None or wall_ms_of(write.stamp) * 1_000_000 < end)
    ]
    found, token = cut(fitting, page, _newest_first)
    return fleet_service_pb2.ListObservationsResponse(
        observations=[_observation(node_id, write) for write in found],
        next_page_token=token,
        as_of_time=freshness_of(replica).as_of(at.home.domain),
    )


async def download_large_value(
    replica: Replica, values: ValueStore, request: Any
) -> AsyncIterator[fleet_service_pb2.DownloadLargeValueResponse]:
    """As `FleetService.DownloadLargeValue`."""
    if not DIGEST_PATTERN.fullmatch(request.digest):
        raise InvalidWrite(
            f"digest {request.digest[:80]!r} is not of the form sha256: and 64 hexadecimal digits",
            field="digest",
        )
    reference = _reference_to(replica.state, request.digest)
    chunks = [chunk.digest for chunk in reference.chunks] if reference is not None else []
    size = reference.size_bytes if reference is not None else 0
    if reference is not None and request.offset > size:
        raise InvalidWrite(
            f"offset {request.offset} is beyond the value's {size} bytes", field="offset"
        )
    position = 0
    sent = False
    for digest in chunks or [request.digest]:
        try:
            data = await values.get(digest)
        except ChunkMissing as error:
            raise NotFound(
                f"{request.digest} is not held here, or not whole; ask the controller of the node that reported it",
                digest=request.digest,
            ) from error
        piece = data[max(0, request.offset - position) :]
        if piece or not sent:
            sent = True
            yield fleet_service_pb2.DownloadLargeValueResponse(
                offset=position + len(data) - len(piece),
                data=piece,
                size_bytes=size or len(data),
            )
        position += len(data)


def _observations(state: State, domain: str, subject: str) -> Iterator[Write]:
    for aspect in OBSERVED_ASPECTS:
        winner = state.winner(Key(domain, subject, aspect))
        if winner is not None:
            yield winner


def _observation(node_id: str, write: Write) -> observation_pb2.Observation:
    body = write.body()
    observation = observation_pb2.Observation(
        id=observation_id(write),
        node=node_id,
        kind=OBSERVED_ASPECTS[write.aspect],
        type=write.aspect,
        receive_time=timestamp(wall_ms_of(write.stamp)),
    )
    times = {"inventory": "observe_time", "actual_state": "report_time", "link_state": "since"}
    if body.HasField(times[write.aspect]):
        observation.observe_time.CopyFrom(getattr(body, times[write.aspect]))
    if write.aspect == "inventory":
        observation.inventory.CopyFrom(body)
        observation.large_values.extend(body.large_values)
    else:
        observation.document.update(MessageToDict(body, preserving_proto_field_name=True))
    return observation


def _newest_first(write: Write) -> str:
    return f"{_LAST_STAMP - write.stamp:020d}{write.aspect}"


def _reference_to(state: State, digest: str) -> observation_pb2.LargeValueRef | None:
    """The reference that says which chunks make up a value; None where the value may be one chunk of its own."""
    wanted = digest.encode()
    scan = Scan(state)
    for domain, subject in state.subjects_everywhere("nodes"):
        if not may_be(state, domain, subject, NAMES_VALUES):
            continue
        for write in scan.siblings(Key(domain, subject, "inventory")):
            # The digest stands in the event as it is; only an event that holds it is worth decoding.
            if wanted in write.raw:
                for reference in write.body().large_values:
                    if reference.digest == digest:
                        found: observation_pb2.LargeValueRef = reference
                        return found
    return None
