"""Keys that change, controllers that are expelled, and runs that are forged. Owns what is tried; none of it is a fault
of the fleet, and honest controllers must come through it.
"""

from __future__ import annotations

from collections.abc import Callable

from federation.authority import Permission, Placement
from federation.chain import extend, seal
from federation.codec import stream_to_message
from federation.expulsion import (
    Position,
    domain_below,
    new_key,
    position_now,
    seal_of,
    streams_below,
)
from federation.identifiers import Lane, Origin, StreamId
from federation.proposal import Proposal
from federation.state import State
from souverix.event.v1 import event_pb2
from souverix.policy.v1 import policy_pb2
from tests.simulation.fleet import Controller, Fleet
from tests.simulation.keys import KeyedHashSigner, signer_of
from tests.simulation.replica import Replica

#: Chance that a seal names a lower position than all that came.
CUTS_BACK = 0.5


class Intrigue:
    """What operators do to keys, and intruders to runs."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._world = fleet.world
        self._count = 0

    def rotate(self) -> None:
        """Some controller goes on under another signing key."""
        controller = self._world.chance.choice(self._fleet.controllers)
        master = controller.master
        if master is None:
            return
        signer = controller.next_signer()

        def succeed(proposal: Proposal) -> None:
            if controller.signer_for(proposal.state) is not signer:
                proposal.succeed(signer.public_key, principal="user:operator")

        def done(value: None, error: Exception | None) -> None:
            if error is None:
                self._fleet.history.figures.rotations += 1
                self._world.trace(f"{controller.name} goes on under key {signer.key_id}")

        master.submit(succeed, done)

    def expel(self) -> None:
        """The master of a parent seals the streams of a controller that has none below it, and grants it a new key."""
        fleet, world = self._fleet, self._world
        leaves = [c for c in fleet.controllers[1:] if c.number not in fleet.parents[1:]]
        child = world.chance.choice(leaves)
        actor = fleet.by_name[world.chance.choice([c.name for c in fleet.controllers])]
        for controller in fleet.controllers:
            master = controller.master
            record = master.state.authority.records.get(child.parent_domain) if master else None
            if record is not None and record.master_of_record == controller.name:
                actor = controller
        replica = actor.master
        if replica is None or actor is child:
            return
        signer = child.next_signer()
        expel = self._decision(replica, actor, child, signer)

        def done(expelled: bool | None, error: Exception | None) -> None:
            if expelled:
                fleet.history.figures.expulsions += 1
                world.trace(f"{actor.name} expels {child.name}")

        replica.submit(expel, done)

    def forge(self) -> None:
        """An intruder at some controller hands a forged run to its parent."""
        fleet, world = self._fleet, self._world
        child = world.chance.choice(fleet.controllers[1:])
        assert child.parent is not None
        replica = fleet.controllers[child.parent].master
        if replica is None or not replica.state.keys.domains_of(child.name):
            return
        forged = self._forged(replica.state, child)
        if forged is None:
            return

        def receive(proposal: Proposal) -> None:
            proposal.receive(child.name, forged)

        def done(value: None, error: Exception | None) -> None:
            if error is None:
                fleet.history.figures.forgeries += 1

        replica.submit(receive, done)

    def _decision(
        self, replica: Replica, actor: Controller, child: Controller, signer: KeyedHashSigner
    ) -> Callable[[Proposal], bool]:
        def expel(proposal: Proposal) -> bool:
            state = proposal.state
            decision = state.authority.decide_write(
                actor.name, actor.domain, child.parent_domain, Permission.OPERATE, link_up=False
            )
            if decision.place is not Placement.LOCAL:
                return False
            domain = domain_below(state, self._fleet.root.domain, child.name)
            positions = {
                stream: self._position(replica, state, stream)
                for stream in streams_below(state, child.name, domain)
            }
            sealed = seal_of(state, child.name, domain, positions, "taken over")
            grant = new_key(state, child.name, domain, signer.public_key, sealed.incarnation + 1)
            subject = f"controllers/{child.name}"
            for aspect, body in (("stream_sealed", sealed), ("key_grant", grant)):
                proposal.write(domain, subject, aspect, body, principal="user:operator")
            return True

        return expel

    def _position(self, replica: Replica, state: State, stream: StreamId) -> Position:
        """What is good here; of other lanes than control now and then less."""
        last, chain_hash = position_now(state.streams[stream])
        if stream.lane is Lane.CONTROL or not self._world.happens(CUTS_BACK):
            return last, chain_hash
        ends = [(0, b"")]
        name = stream_to_message(stream)
        ends += [
            (run.seal.sequence, run.seal.chain_hash)
            for commit in replica.controller.log.commits
            for run in commit.runs
            if run.stream == name and run.seal.sequence <= last
        ]
        return self._world.chance.choice(ends)

    def _forged(self, state: State, child: Controller) -> event_pb2.Run | None:
        """A run that follows what is held, under no key, a key of another, or one that has ended."""
        world = self._world
        stream, signer = world.chance.choice(
            [
                (self._own(state, child), None),
                (self._of_parent(state, child), signer_of("intruder")),
                (self._of_parent(state, child), child.signer_for(state)),
                (self._own(state, child), child.signers[0]),
            ]
        )
        if stream is None:
            return None
        at = state.received(stream)
        if signer is child.signers[0] and child.signer_for(state) is signer:
            return None  # It is good.
        self._fleet.history.forged.add(stream)
        self._count += 1
        event = event_pb2.Event(
            stamp=1 << 62,
            subject="policies/p0",
            principal="user:forged",
            policy=policy_pb2.PolicySpec(version=f"forged {self._count}"),
        ).SerializeToString()
        chain_hash = extend(state.chain_hash(stream), [event])
        made = seal(signer or signer_of("nobody"), stream, at + 1, chain_hash)
        if signer is None:
            made.key_id = child.signer_for(state).key_id
        return event_pb2.Run(
            stream=stream_to_message(stream), first_sequence=at + 1, events=[event], seal=made
        )

    def _own(self, state: State, child: Controller) -> StreamId | None:
        origin = Origin(child.name, state.grounds.bounds.sealed_incarnation(child.name) + 1)
        stream = StreamId(child.domain, origin, Lane.CONTROL)
        return stream if stream in state.streams else None

    def _of_parent(self, state: State, child: Controller) -> StreamId | None:
        """A stream of one above the parent in the child's domain."""
        above = [
            stream
            for stream in state.streams
            if stream.domain == child.domain
            and stream.lane is Lane.CONTROL
            and stream.origin.controller not in (child.name, state.controller)
            and not state.authority.is_within(
                self._fleet.by_name[stream.origin.controller].domain, child.domain
            )
        ]
        return self._world.chance.choice(sorted(above)) if above else None
