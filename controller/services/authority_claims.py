"""Who takes itself for the master of a domain, as far as is known here. Owns how that is told from the log: from rival
records, and from who was master before and has not been heard since.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from controller.query.lineage import places_of
from controller.replica import Replica
from controller.services.node_past import OutOfReach, PastReader, Walk
from controller.twin.facts import effective_ms, timestamp
from federation.codec import Term, stream_from_message
from federation.state import State
from federation.transfers import authority_key
from souverix.event.v1 import event_pb2
from souverix.federation.v1 import authority_pb2

#: Records looked back: who was master before these has been heard since, or will never be.
MAX_EARLIER_RECORDS = 16

_STANDING = authority_pb2.AuthorityClaimStanding


async def claims_on(
    replica: Replica, domain: str, level: Collection[str]
) -> list[authority_pb2.AuthorityClaim]:
    """The claims on a domain whose authority is known here; the one in force first. `level` names controllers that have
    acknowledged all that is known here. Raises `LogError`.
    """
    state = replica.state
    claims = list(_declared(state, domain))
    known = {claim.controller for claim in claims} | {replica.config.controller.id, *level}
    key = authority_key(domain)
    ruling = state.winner(key)
    if ruling is None:
        return claims
    # Who wrote the record knows of it.
    known.add(ruling.origin.controller)
    term = state.authority.term_of(domain)
    for controller in await _earlier_masters(replica, domain):
        if controller in known:
            continue
        heard = await _last_heard(replica, domain, controller)
        if heard is not None and heard[0] < term:
            claims.append(
                authority_pb2.AuthorityClaim(
                    controller=controller,
                    standing=_STANDING.AUTHORITY_CLAIM_STANDING_NOT_HEARD_SINCE,
                    term_path=heard[0],
                    time=timestamp(heard[1]),
                )
            )
    return claims


def _declared(state: State, domain: str) -> Iterator[authority_pb2.AuthorityClaim]:
    """What the records that stand say."""
    record = state.authority.records[domain]
    key = authority_key(domain)
    ruling = state.winner(key)
    term = state.authority.term_of(domain)
    in_force = authority_pb2.AuthorityClaim(
        controller=record.master_of_record,
        standing=_STANDING.AUTHORITY_CLAIM_STANDING_IN_FORCE,
        term_path=term,
    )
    if ruling is not None:
        in_force.time.CopyFrom(timestamp(effective_ms(state, key, ruling)))
    yield in_force
    if record.next_master and ruling is not None:
        yield authority_pb2.AuthorityClaim(
            controller=record.next_master,
            standing=_STANDING.AUTHORITY_CLAIM_STANDING_NEXT,
            time=in_force.time,
        )
    for sibling in state.siblings(key):
        rival = sibling.body()
        if rival.master_of_record != record.master_of_record:
            yield authority_pb2.AuthorityClaim(
                controller=rival.master_of_record,
                standing=_STANDING.AUTHORITY_CLAIM_STANDING_RIVAL,
                term_path=(*term[:-1], rival.term),
                time=timestamp(effective_ms(state, key, sibling)),
            )


async def _earlier_masters(replica: Replica, domain: str) -> list[str]:
    """Masters that earlier records name, the last one first; as far back as the log reaches."""
    key = authority_key(domain)
    walk = Walk(PastReader(replica), places_of(key, replica.state.siblings(key)))
    found: dict[str, None] = {}
    looked = 0
    try:
        async for past in walk.events():
            found[past.event.authority.master_of_record] = None
            looked += 1
            if looked > MAX_EARLIER_RECORDS:
                break
    except OutOfReach:
        pass
    return list(found)


async def _last_heard(replica: Replica, domain: str, controller: str) -> tuple[Term, int] | None:
    """The term under which a controller last wrote into a domain's streams, and when that came here, in milliseconds
    since the epoch; None when it never did.
    """
    written = [
        (time_ms, stream, held.received)
        for stream, held in replica.state.streams.items()
        if stream.domain == domain
        and stream.origin.controller == controller
        and (time_ms := held.index.time_ms_of(held.received)) is not None
    ]
    if not written:
        return None
    time_ms, stream, sequence = max(written)
    offset = replica.state.streams[stream].index.offset_of(sequence)
    commits = await replica.read_commits(offset, 1) if offset is not None else []
    for run in commits[0].runs if commits else ():
        at = sequence - run.first_sequence
        if 0 <= at < len(run.events) and stream_from_message(run.stream) == stream:
            return tuple(event_pb2.Event.FromString(run.events[at]).term), time_ms
    return None
