"""Moving a node to another domain. Owns what is carried over, what it is marked with, and how late writes under the old
key follow; never decides whether a move may be made.

A stream cannot touch another domain, so the common ancestor of both writes, in its own stream of the new domain, one
event per sibling: with the sibling's stamp, request and writer, without the old domain's numbers in its context, and
with `moved_from` naming the sibling. Both domains get the placement with the next epoch (design §5).

Late writes. Whoever had not seen the move may go on writing under the old key. The mover finds such a write by the
place of its own placement in its own log: what that log took in at or after the placement was not carried over. It
carries the write over beside what stands in the new domain (as having seen only what the writer had seen), and writes
the old domain's placement again in the same commit, so that nothing is carried twice.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.timestamp_pb2 import Timestamp

from federation.authority import AuthorityTable
from federation.causality import Context, join
from federation.codec import ASPECTS, Write, dot_to_message
from federation.errors import NotFound, WrongState
from federation.identifiers import Key, Lane, StreamId
from federation.merge import context_of
from federation.proposal import Proposal
from federation.state import State
from souverix.event.v1 import event_pb2
from souverix.fleet.v1 import node_pb2

#: What belongs to a node wherever it lives; its placement is written anew.
CARRIED_ASPECTS = (
    "existence",
    "node_spec",
    "desired_state",
    "drift_waiver",
    "lifecycle",
    "actual_state",
    "link_state",
    "agent_key",
    "return_incident",
    "inventory",
    "node_sbom",
    "attestation",
    "attestation_baseline",
    "attestation_demand",
)


def common_ancestor(table: AuthorityTable, one: str, other: str) -> str:
    """The nearest domain that holds both. Raises `NotFound` while the path of one is not known here."""
    paths = []
    for domain in (one, other):
        path = table.path_of(domain)
        if path is None:
            raise NotFound(
                f"the way from the root to domain {domain} is not known here; ask the controller of a domain above",
                domain=domain,
            )
        paths.append(path)
    shared = [a for a, b in zip(*paths, strict=False) if a == b]
    if not shared:
        raise NotFound(f"domains {one} and {other} have no common ancestor", domain=other)
    nearest: str = shared[-1]
    return nearest


def move_node(
    proposal: Proposal,
    subject: str,
    old_domain: str,
    new_domain: str,
    *,
    principal: str,
    request_id: str = "",
    optimistic: bool = False,
    reason: str = "",
) -> node_pb2.Placement:
    """Drafts a move at the common ancestor; returns the new placement.

    Raises `NotFound` for a node without a placement in the old domain, `WrongState` while events of the old domain
    wait to take effect here.
    """
    present = proposal.winner(Key(old_domain, subject, "placement"))
    if present is None:
        raise NotFound(f"no placement of {subject} in {old_domain} is known here", subject=subject)
    _require_settled(proposal.state, old_domain)
    for aspect in CARRIED_ASPECTS:
        old_key = Key(old_domain, subject, aspect)
        siblings = proposal.siblings(old_key)
        if siblings:
            # What stood in the new domain from an earlier stay there is superseded by what was true since.
            seen = context_of(proposal.siblings(Key(new_domain, subject, aspect)))
            for sibling in siblings:
                _carry(proposal, old_key, sibling, new_domain, seen)
    placement = node_pb2.Placement(
        domain=new_domain,
        epoch=present.body().epoch + 1,
        moved_from_domain=old_domain,
        time=_timestamp(proposal.wall_ms),
        reason=reason,
    )
    for domain in (new_domain, old_domain):
        proposal.write(
            domain,
            subject,
            "placement",
            placement,
            principal=principal,
            request_id=request_id,
            optimistic=optimistic,
        )
    return placement


def moved_away(state: State, controller: str, subject: str) -> Iterator[tuple[str, Write]]:
    """Domains the node was moved out of by this controller, each with the placement that says so."""
    for domain in state.domains_of_subject.get(subject, ()):
        placement = state.winner(Key(domain, subject, "placement"))
        if (
            placement is not None
            and placement.origin.controller == controller
            and placement.body().domain != domain
        ):
            yield domain, placement


def late_writes(state: State, controller: str, subject: str) -> list[tuple[Key, Write]]:
    """Writes under a key the node was moved away from, which this controller moved and has not carried over yet."""
    found = []
    for domain, placement in moved_away(state, controller, subject):
        moved_at = _offset(state, domain, Lane.CONTROL, placement)
        for aspect in CARRIED_ASPECTS:
            key = Key(domain, subject, aspect)
            for sibling in state.siblings(key):
                taken_at = _offset(state, domain, ASPECTS[aspect].lane, sibling)
                # Of one commit, the mover's own writes were carried over; what came from others was not seen yet.
                own = sibling.origin.controller == controller
                if taken_at > moved_at or (taken_at == moved_at and not own):
                    found.append((key, sibling))
    return found


def carry_late_writes(proposal: Proposal, subject: str) -> int:
    """Drafts the carrying over of a node's late writes; returns how many there were.

    Does nothing while events of the old domain wait to take effect here: it is then asked again.
    """
    state, controller = proposal.state, proposal.identity.controller
    closing = {d: w for d, w in moved_away(state, controller, subject) if is_settled(state, d)}
    late = [
        (key, write)
        for key, write in late_writes(state, controller, subject)
        if key.domain in closing
    ]
    for key, write in late:
        target = closing[key.domain].body().domain
        _carry(proposal, key, write, target, _seen_in(proposal, key, write, target))
    for domain in {key.domain for key, _ in late}:
        placement = closing[domain]
        proposal.write(
            domain, subject, "placement", placement.body(), principal=placement.principal
        )
    return len(late)


def is_settled(state: State, domain: str) -> bool:
    """Tells whether all that was received of a domain is in effect, or in quarantine."""
    return not any(
        held.waiting and not held.quarantine_reason
        for stream, held in state.streams.items()
        if stream.domain == domain
    )


def _carry(proposal: Proposal, old_key: Key, write: Write, new_domain: str, seen: Context) -> None:
    event = write.event()
    proposal.write(
        new_domain,
        old_key.subject,
        old_key.aspect,
        getattr(event, old_key.aspect),
        principal=write.principal,
        request_id=write.request_id,
        optimistic=write.optimistic,
        report=(event.report_source, event.report_sequence) if event.report_source else None,
        # An admission caps stamps of the old domain's streams only: the cap goes along in the stamp.
        stamp=proposal.state.admissions.effective_stamp(
            old_key.domain, ASPECTS[old_key.aspect].lane, write
        ),
        moved_from=event_pb2.MovedFrom(
            domain=old_key.domain,
            dot=dot_to_message(write.dot),
            context=[dot_to_message(d) for d in write.context],
        ),
        context=seen,
    )


def _seen_in(proposal: Proposal, old_key: Key, write: Write, new_domain: str) -> Context:
    """What the writer of a late write had seen of the new key: events carried over from what it had seen of the old."""
    seen = []
    for sibling in proposal.siblings(Key(new_domain, old_key.subject, old_key.aspect)):
        origin = sibling.event().moved_from
        if origin.domain != old_key.domain:
            continue
        for known in write.context:
            carried = (origin.dot.controller, origin.dot.incarnation)
            if known.origin == carried and origin.dot.sequence <= known.sequence:
                seen.append((sibling.context, sibling.dot))
    return join(seen) if seen else ()


def _require_settled(state: State, domain: str) -> None:
    if not is_settled(state, domain):
        raise WrongState(
            f"events of domain {domain} wait here for a key or a term; the node can be moved once they are in effect",
            domain=domain,
        )


def _offset(state: State, domain: str, lane: Lane, write: Write) -> int:
    """Offset in this log of the commit that holds a write."""
    held = state.streams.get(StreamId(domain, write.origin, lane))
    offset = held.index.offset_of(write.sequence) if held is not None else None
    return offset if offset is not None else state.next_offset


def _timestamp(wall_ms: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMilliseconds(wall_ms)
    return stamp
