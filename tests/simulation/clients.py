"""The clients of a fleet: writes at any controller, executed there, under autonomy, or by the master-of-record. Owns
what is asked for and how often; each step is the one the controller's write path takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from controller.writes import write_audit
from federation.authority import Permission, Placement
from federation.errors import FederationError
from federation.proposal import Proposal
from federation.transfers import transfer
from souverix.audit.v1 import audit_pb2
from souverix.fleet.v1 import domain_pb2, node_pb2
from souverix.policy.v1 import policy_pb2
from tests.simulation.fleet import Controller, Fleet
from tests.simulation.history import Mastership, Place
from tests.simulation.replica import Replica

#: A client asks again after this long without an answer, with the same request_id.
RETRY_MS = 700

#: Times a client asks before it gives up, not knowing.
MAX_TRIES = 3

#: Chance that an answer is lost on its way to the client.
REPLY_LOST = 0.1

#: Longest chain of forwards: a tree of depth 3 has no longer way.
MAX_FORWARDS = 3

#: What clients write: aspect, subject, and the permission that autonomy must grant.
TARGETS: tuple[tuple[str, str, Permission], ...] = (
    ("policy", "policies/p0", Permission.POLICIES),
    ("desired_state", "nodes/n0", Permission.VERSIONS),
    ("node_spec", "nodes/n0", Permission.OPERATE),
    ("existence", "nodes/n0", Permission.OPERATE),
)


@dataclass(slots=True)
class Request:
    """One client's request."""

    request_id: str
    domain: str
    subject: str
    aspect: str
    permission: Permission
    body: Any
    tries: int = 0
    answered: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What the write path decided."""

    forward_to: str = ""
    place: Place | None = None


Reply = Callable[[Place | None], None]


class Clients:
    """Asks for writes, and notes what it was told."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._world = fleet.world
        self._count = 0
        self._domains = [controller.domain for controller in fleet.contested]

    def ask(self) -> None:
        """A client asks some controller for some write."""
        world = self._world
        domain = world.chance.choice(self._domains)
        aspect, subject, permission = world.chance.choice(TARGETS)
        self._count += 1
        request = Request(
            f"r{self._count}", domain, subject, aspect, permission, self._body(aspect)
        )
        self._ask(request, self._near(domain))

    def report(self) -> None:
        """A node reports to the controller of its domain; no authority is asked for."""
        controller = self._world.chance.choice(self._fleet.controllers)
        replica = self._replica(controller)
        self._count += 1
        body = node_pb2.ActualState(reported_version=f"v{self._count}")

        def write(proposal: Proposal) -> None:
            proposal.write(controller.domain, "nodes/n0", "actual_state", body, principal="node:n0")

        if replica is not None:
            replica.submit(write, lambda value, error: None)

    def transfer(self) -> None:
        """An operator moves the authority over a domain, planned or forced, where the parent's master is."""
        world = self._world
        child = world.chance.choice(self._fleet.controllers[1:])
        if world.happens(0.7):
            contested = world.chance.choice(self._fleet.contested)
            child = world.chance.choice([contested, *self._above(contested)[:-1]])
        candidates = [child, *self._above(child)]
        target = world.chance.choice(candidates).name
        force = world.happens(0.5)
        actor = world.chance.choice(self._above(child))
        replica = self._replica(actor)
        self._count += 1
        request_id = f"t{self._count}"

        def write(proposal: Proposal) -> bool:
            table = proposal.state.authority
            decision = table.decide_write(
                actor.name, actor.domain, child.parent_domain, Permission.OPERATE, link_up=False
            )
            if decision.place is not Placement.LOCAL:
                return False
            proposal.write(
                child.domain,
                f"domains/{child.domain}",
                "authority",
                transfer(
                    proposal.state,
                    actor.name,
                    child.domain,
                    target,
                    force=force,
                    reason="an operator asked",
                ),
                principal="user:operator",
                request_id=request_id,
            )
            self._audit(proposal, child.domain, request_id)
            return True

        def done(moved: bool | None, error: Exception | None) -> None:
            if moved:
                self._fleet.history.figures.transfers += 1
                world.trace(f"{actor.name} moves {child.domain} to {target}, forced={force}")

        if replica is not None:
            replica.submit(write, done)

    # The way of a request.

    def _ask(self, request: Request, controller: Controller) -> None:
        if request.answered or request.tries >= MAX_TRIES or self._fleet.healed:
            return
        request.tries += 1
        world = self._world

        def reply(place: Place | None) -> None:
            if not world.happens(REPLY_LOST):
                world.after(world.between(0, 5), self._answered, request, place, controller)

        again = controller if world.happens(0.7) else self._near(request.domain)
        world.after(RETRY_MS, self._ask, request, again)
        replica = self._replica(controller)
        if replica is not None:
            replica.when_awake(self._execute, replica, request, 0, reply)

    def _answered(self, request: Request, place: Place | None, controller: Controller) -> None:
        if not request.answered:
            request.answered = True
            if place is not None:
                history = self._fleet.history
                history.figures.acknowledged += 1
                history.acknowledged.append((request.request_id, controller.name, place))

    def _execute(self, replica: Replica, request: Request, forwards: int, reply: Reply) -> None:
        def answer(decision: Decision | None, error: Exception | None) -> None:
            if decision is None:
                if isinstance(error, FederationError):
                    reply(None)
            elif decision.forward_to:
                self._forward(replica, request, decision.forward_to, forwards, reply)
            else:
                reply(decision.place)

        replica.submit(lambda proposal: self._decide(replica, request, proposal), answer)

    def _forward(
        self, replica: Replica, request: Request, to: str, forwards: int, reply: Reply
    ) -> None:
        fleet = self._fleet
        source, target = replica.controller, fleet.by_name[to]
        if forwards >= MAX_FORWARDS:
            return

        def back(place: Place | None) -> None:
            fleet.network.call(target.number, source.number, fleet.is_linked, lambda: reply(place))

        def there() -> None:
            master = target.master
            if master is not None:
                master.when_awake(self._execute, master, request, forwards + 1, back)

        fleet.network.call(source.number, target.number, fleet.is_linked, there)

    def _decide(self, replica: Replica, request: Request, proposal: Proposal) -> Decision:
        principal = "user:client"
        if proposal.subject_of_request(principal, request.request_id) is not None:
            remembered = proposal.state.requests.get((principal, request.request_id))
            if remembered is None:
                return Decision()
            return Decision(place=(remembered.stream, remembered.sequence))
        controller = replica.controller
        table = proposal.state.authority
        record = table.records.get(request.domain)
        decision = table.decide_write(
            controller.name,
            controller.domain,
            request.domain,
            request.permission,
            link_up=record is not None and self._is_up(controller, record.master_of_record),
        )
        if decision.place is Placement.FORWARD:
            return Decision(forward_to=decision.master)
        optimistic = decision.place is Placement.LOCAL_OPTIMISTIC
        self._fleet.history.note_execution(request.request_id, replica.state)
        write = proposal.write(
            request.domain,
            request.subject,
            request.aspect,
            request.body,
            principal=principal,
            request_id=request.request_id,
            optimistic=optimistic,
        )
        stream = proposal.drafts()[-1][0]
        self._audit(proposal, request.domain, request.request_id)
        place = (stream, write.sequence)
        history = self._fleet.history
        assert record is not None
        history.masterships[(*place, write.stamp)] = Mastership(tuple(record.since), not optimistic)
        history.figures.optimistic += optimistic
        return Decision(place=place)

    def _audit(self, proposal: Proposal, domain: str, request_id: str) -> None:
        write_audit(
            proposal,
            audit_pb2.AuditRecord(
                principal="user:client",
                action="souverix.simulated/Write",
                resource=f"domains/{domain}",
                outcome=audit_pb2.AUDIT_OUTCOME_ALLOWED,
                request_id=request_id,
            ),
            domain=domain,
        )

    def _is_up(self, controller: Controller, master: str) -> bool:
        """Tells whether the next hop towards a controller has a session now; those beyond may not."""
        path = self._fleet.network.path(controller.number, self._fleet.by_name[master].number)
        return bool(path) and self._fleet.is_linked(path[0])

    # Choosing.

    def _replica(self, controller: Controller) -> Replica | None:
        """The replica a client reaches: any that believes to be the master."""
        believers = [r for r in controller.replicas if r.alive and r.is_master]
        return self._world.chance.choice(believers) if believers else None

    def _above(self, controller: Controller) -> list[Controller]:
        found = []
        while controller.parent is not None:
            controller = self._fleet.controllers[controller.parent]
            found.append(controller)
        return found

    def _near(self, domain: str) -> Controller:
        """A controller that clients of a domain talk to: its own, one above, or now and then any."""
        controller = self._fleet.controller_of_domain[domain]
        if self._world.happens(0.1):
            return self._world.chance.choice(self._fleet.controllers)
        return self._world.chance.choice(
            [controller, self._world.chance.choice(self._above(controller))]
        )

    def _body(self, aspect: str) -> Any:
        version = f"v{self._count}"
        if aspect == "policy":
            return policy_pb2.PolicySpec(version=version)
        if aspect == "desired_state":
            return node_pb2.DesiredState(target_version=version)
        if aspect == "node_spec":
            return node_pb2.NodeSpec(display_name=version)
        return domain_pb2.Existence(exists=self._world.happens(0.7), reason=version)
