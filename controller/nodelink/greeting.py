"""Whether an agent is welcome. Owns the checks of its greeting and the enrolment of unknown nodes; opens no link."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from controller.bearer import Bearer
from controller.command.targets import delivering_controller
from controller.journal import Journal
from controller.nodelink.agent_keys import draft_pin
from controller.nodelink.commits import commit
from controller.nodelink.proof import PUBLIC_KEY_BYTES
from controller.nodelink.rate import TokenBucket
from controller.services.fleet_fields import check_node_spec
from controller.services.fleet_rules import draft_node
from controller.twin.facts import Facts, Home, exists, home_of, state_of
from controller.writes import Draft, write_audit
from federation.errors import AlreadyExists, InvalidWrite
from federation.identifiers import is_valid_id
from federation.proposal import Proposal
from federation.state import State
from souverix.audit.v1 import audit_pb2
from souverix.fleet.v1 import node_pb2
from souverix.nodelink.v1 import nodelink_pb2

#: Longest source id and agent version; ours are UUIDs and release numbers.
MAX_WORD_BYTES = 128

#: Nodes enrolled by their greeting, a second and at once: a rack that is switched on, not a flood of made-up names.
ENROLMENTS_PER_S = 20.0
ENROLMENTS_BURST = 200

#: When an agent should ask again whose controller waits for its first contact with the parent, which takes seconds.
FIRST_CONTACT_RETRY_S = 1.0

#: When an agent that is not welcome should ask again: people must act first.
UNWELCOME_RETRY_S = 30.0


class NotWelcome(Exception):
    """The agent is sent away. Carries what the goodbye says."""

    def __init__(
        self, reason: nodelink_pb2.LinkEnd, message: str, retry_after_s: float = 0
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Identified:
    """An agent that has proved to be a node's. `is_known` is False for a node that is to enrol; `vouched` is whose
    certificate vouches for its key, None where nothing speaks TLS.
    """

    hello: nodelink_pb2.AgentHello
    home: Home
    is_known: bool
    vouched: Bearer | None


def check_hello(hello: nodelink_pb2.AgentHello) -> None:
    """Refuses a malformed greeting. Raises `NotWelcome`."""
    check_names(hello.node, hello.source, hello.agent_version)
    if not hello.run or len(hello.run.encode()) > MAX_WORD_BYTES:
        _refuse(f"run must have 1 to {MAX_WORD_BYTES} bytes")
    if len(hello.public_key) != PUBLIC_KEY_BYTES:
        _refuse(f"public_key must have {PUBLIC_KEY_BYTES} bytes (Ed25519)")


def check_names(node: str, source: str, version: str = "") -> None:
    """Refuses malformed names of a node, its agent's state directory, its agent's version. Raises `NotWelcome`."""
    if not is_valid_id(node):
        _refuse(f"{node[:80]!r} is no node id (lower-case letters, digits and '-', at most 63)")
    if not source or len(source.encode()) > MAX_WORD_BYTES:
        _refuse(f"source must have 1 to {MAX_WORD_BYTES} bytes")
    if len(version.encode()) > MAX_WORD_BYTES:
        _refuse(f"agent_version is longer than {MAX_WORD_BYTES} bytes")


def _refuse(problem: str) -> NoReturn:
    raise NotWelcome(nodelink_pb2.LINK_END_PROTOCOL_ERROR, problem, UNWELCOME_RETRY_S)


def waiting(hello: nodelink_pb2.AgentHello, highest: int) -> int:
    """Reports that wait at the node and are not durable here: some may be whose acknowledgement was lost."""
    if not hello.oldest_report:
        return int(hello.backlog_reports)
    last = hello.oldest_report + hello.backlog_reports - 1
    return int(max(0, min(hello.backlog_reports, last - highest)))


def find_home(facts: Facts, controller: str, node: str) -> Home | None:
    """Where a node lives, if this controller delivers to it; None for a node of which nothing is known.

    Raises `NotWelcome` for a node that is deleted or that another controller delivers to.
    """
    subject = f"nodes/{node}"
    home = home_of(facts, subject)
    if home is None:
        return None
    deliverer = delivering_controller(state_of(facts).authority, home.domain)
    if deliverer != controller:
        raise NotWelcome(
            nodelink_pb2.LINK_END_MOVED,
            f"{node} lives in domain {home.domain}, whose controller is {deliverer or 'not known here'}; "
            "give the agent that controller's addresses",
            UNWELCOME_RETRY_S,
        )
    if not exists(facts, home.domain, subject):
        raise NotWelcome(
            nodelink_pb2.LINK_END_UNKNOWN_NODE,
            f"{node} was deleted, and ids are never used again; give the node a new id",
            UNWELCOME_RETRY_S,
        )
    return home


@dataclass(slots=True)
class Enrolment:
    """Creates nodes when they greet, where that is allowed."""

    is_open: bool
    rate: TokenBucket
    state: State

    def check(self, journal: Journal, hello: nodelink_pb2.AgentHello, now_s: float) -> Home:
        """Where a node would live that is not known yet. Raises `NotWelcome` where it cannot be taken in now."""
        if not self.is_open or not hello.HasField("spec"):
            raise NotWelcome(
                nodelink_pb2.LINK_END_UNKNOWN_NODE,
                f"{hello.node} is not known here and "
                + ("sent no description" if self.is_open else "enrolment is not open")
                + f"; create it with 'souverixctl create node {hello.node}'",
                UNWELCOME_RETRY_S,
            )
        if not self.state.authority.term_of(journal.identity.domain):
            raise NotWelcome(
                nodelink_pb2.LINK_END_UNKNOWN_NODE,
                f"{journal.identity.controller} does not know its authority yet, which its first contact with the "
                "parent brings; nodes enrol after that",
                FIRST_CONTACT_RETRY_S,
            )
        if not self.rate.take(now_s):
            raise NotWelcome(
                nodelink_pb2.LINK_END_UNKNOWN_NODE,
                f"more than {ENROLMENTS_PER_S:g} nodes a second want to enrol; wait for a turn",
                max(1.0, self.rate.wait_s(now_s)),
            )
        return Home(journal.identity.domain, 1)

    async def enrol(
        self,
        journal: Journal,
        hello: nodelink_pb2.AgentHello,
        source: str,
        vouched: Bearer | None,
    ) -> None:
        """Creates the node in the controller's own domain, with its key pinned: its agent has proved to hold it.
        `source` is where the call comes from, for audit; `vouched` who vouches for the key. Raises `NotWelcome`.
        """
        try:
            check_node_spec(hello.spec)
            await commit(journal, lambda proposal: _draft(proposal, hello, source, vouched))
        except InvalidWrite as error:
            raise NotWelcome(
                nodelink_pb2.LINK_END_PROTOCOL_ERROR, str(error), UNWELCOME_RETRY_S
            ) from error
        except AlreadyExists as error:
            raise NotWelcome(
                nodelink_pb2.LINK_END_UNKNOWN_NODE, str(error), UNWELCOME_RETRY_S
            ) from error


def _draft(
    proposal: Proposal, hello: nodelink_pb2.AgentHello, source: str, vouched: Bearer | None
) -> None:
    """Existence, placement, description and lifecycle of a node that enrols, with the audit of it."""
    identity = proposal.identity
    record = proposal.state.authority.records.get(identity.domain)
    principal = f"node:{hello.node}"
    optimistic = record is None or record.master_of_record != identity.controller
    draft = Draft(proposal, principal, "", optimistic)
    spec = node_pb2.NodeSpec()
    spec.CopyFrom(hello.spec)
    draft_node(draft, identity.domain, f"nodes/{hello.node}", spec, None)
    draft_pin(proposal, identity.domain, hello.node, hello.public_key, vouched)
    write_audit(
        proposal,
        audit_pb2.AuditRecord(
            principal=principal,
            action="node.enrolled",
            resource=f"domains/{identity.domain}/nodes/{hello.node}",
            source=source,
            outcome=audit_pb2.AUDIT_OUTCOME_ALLOWED,
        ),
        domain=identity.domain,
    )
