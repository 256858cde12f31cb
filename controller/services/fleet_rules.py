"""Rules that every write of a node or a domain obeys: existence, etags, autonomy, and what a new node consists of. Owns
these checks within a decision; never submits one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from controller.replica import Replica
from controller.supply.gate import Gate
from controller.twin.facts import Facts, body_of, home_of, timestamp
from controller.twin.freshness import Freshness
from controller.twin.node import NodeAt, find_node
from controller.writes import Draft
from federation.authority import Permission
from federation.errors import (
    AlreadyExists,
    AuthorityError,
    EtagMismatch,
    NotFound,
    NotVerified,
    WrongState,
)
from federation.identifiers import Key
from souverix.fleet.v1 import domain_pb2, lifecycle_pb2, node_pb2
from souverix.policy.v1 import policy_pb2

#: Epoch of a node's first placement.
FIRST_EPOCH = 1

Permissions = tuple[Permission, ...]

POLICIES: Permissions = (Permission.POLICIES,)
VERSIONS: Permissions = (Permission.VERSIONS,)
POLICIES_AND_VERSIONS: Permissions = (Permission.POLICIES, Permission.VERSIONS)


def freshness_of(replica: Replica) -> Freshness:
    """As-of times for one answer."""
    own_domain = replica.config.controller.domain
    sight = replica.sight(time.monotonic())
    return Freshness(replica.state, own_domain, time.time_ns() // 1_000_000, sight)


def required_node(facts: Facts, subject: str) -> NodeAt:
    """The node. Raises `NotFound`, naming the domain it went to where that is known."""
    at = find_node(facts, subject)
    if at is None:
        home = home_of(facts, subject)
        metadata = {"subject": subject}
        where = "is not known here"
        if home is not None:
            metadata["domain"] = home.domain
            where = f"is deleted, or lives in domain {home.domain}, of which nothing is known here"
        raise NotFound(f"{subject} {where}", **metadata)
    return at


def node_in(facts: Facts, subject: str, domain: str) -> NodeAt:
    """The node, which must still live where the write was led to. Raises `NotFound`, `WrongState`."""
    at = required_node(facts, subject)
    if at.home.domain != domain:
        raise WrongState(
            f"{subject} was moved to domain {at.home.domain} just now; repeat the request",
            subject=subject,
            domain=at.home.domain,
        )
    return at


def check_etag(expected: str, present: str, subject: str) -> None:
    """Raises `EtagMismatch` when an etag was given that is not the present one."""
    if expected and expected != present:
        raise EtagMismatch(
            f"{subject} has changed since it was read: its etag is {present}, not {expected[:80]}; read it again, "
            "then decide",
            subject=subject,
            etag=present,
        )


def permissions_to_declare(desired: node_pb2.DesiredState) -> Permissions:
    """What autonomy must allow for a desired state to be declared in the master's place."""
    if not desired.target_version:
        return POLICIES
    # What is declared most often is looked at before the list of all fields is made.
    if desired.policy_bundle or desired.HasField("configuration"):
        return POLICIES_AND_VERSIONS
    return VERSIONS if len(desired.ListFields()) == 1 else POLICIES_AND_VERSIONS


def permissions_for_policy(spec: policy_pb2.PolicySpec) -> Permissions:
    """What autonomy must allow for a policy to be written in the master's place."""
    return POLICIES_AND_VERSIONS if spec.target_version else POLICIES


def check_autonomy(draft: Draft, permissions: Sequence[Permission]) -> None:
    """Holds an optimistic write to all its permissions; the first was checked when its place was decided.

    Raises `AuthorityError`.
    """
    if not draft.optimistic:
        return
    identity = draft.proposal.identity
    record = draft.proposal.state.authority.records.get(identity.domain)
    for permission in permissions:
        if record is None or not getattr(record.autonomy, permission.value):
            raise AuthorityError(
                f"the master-of-record cannot be reached, and {identity.controller} has no autonomy "
                f"({permission.value}) to write in its place",
                domain=identity.domain,
                permission=permission.value,
            )


def check_gate(draft: Draft, domain: str, version: str, component: str = "") -> None:
    """Holds a version that is to be desired to the gate of its domain. Raises `NotVerified`."""
    gate = Gate(draft.proposal, draft.proposal.wall_ms)
    if not gate.admits(domain, version, component):
        standing = gate.standing(domain, version, component)
        raise NotVerified(
            f"the gate of domain {domain} is closed to what is not verified: {standing.words}",
            domain=domain,
            version=version,
            artifact=standing.artifact,
        )


def declare_desired(
    draft: Draft, domain: str, subject: str, desired: node_pb2.DesiredState
) -> None:
    """Drafts the desired state of a node that exists. Raises `NotVerified`."""
    if desired.target_version:
        spec = body_of(draft.proposal, Key(domain, subject, "node_spec"))
        component = spec.component_type if spec is not None else ""
        check_gate(draft, domain, desired.target_version, component)
    draft.write(domain, subject, "desired_state", desired)


def draft_node(
    draft: Draft,
    domain: str,
    subject: str,
    spec: node_pb2.NodeSpec,
    desired: node_pb2.DesiredState | None,
) -> None:
    """Drafts a new node: existence, first placement, description, desired state and lifecycle, in this order.

    Raises `AlreadyExists` when anything was ever known of the id.
    """
    proposal = draft.proposal
    if (
        subject in proposal.state.domains_of_subject
        or proposal.winner(Key(domain, subject, "existence")) is not None
    ):
        raise AlreadyExists(
            f"{subject} is taken, or was once; ids are never used again", subject=subject
        )
    if desired is not None and desired.target_version:
        check_gate(draft, domain, desired.target_version, spec.component_type)
    now = timestamp(proposal.wall_ms)
    draft.write(domain, subject, "existence", domain_pb2.Existence(exists=True, time=now))
    draft.write(
        domain,
        subject,
        "placement",
        node_pb2.Placement(domain=domain, epoch=FIRST_EPOCH, time=now),
    )
    draft.write(domain, subject, "node_spec", spec)
    if desired is not None:
        draft.write(domain, subject, "desired_state", desired)
    draft.write(
        domain,
        subject,
        "lifecycle",
        lifecycle_pb2.LifecycleState(
            phase=lifecycle_pb2.LIFECYCLE_PHASE_PROVISIONING,
            last_transition_time=now,
            reason="created",
        ),
    )
