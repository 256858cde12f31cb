"""The gate: every role at every method, lists narrowed, certificates and forwarders bounding what bindings give."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
from google.protobuf import message_factory

from controller.access.errors import AccessDenied
from controller.access.methods import MACHINE_METHODS, METHODS, Rule
from controller.access.places import Place
from controller.access.roles import BINDABLE, Role
from controller.gate import Gate
from controller.twin.facts import timestamp
from controller.writes import Caller
from souverix.fleet.v1 import domain_pb2, node_pb2
from souverix.trust.v1 import role_binding_pb2
from tests.federation_fixture import ROOT, MemoryController, root_controller

REGION, ZONE, OTHER = "region-a", "edge-a1", "region-b"


class Federation:
    """A root with two regions and a zone, node n1 in the zone, and a gate."""

    def __init__(self) -> None:
        self.root: MemoryController = root_controller()
        zone = MemoryController("edge-a1-control", ZONE, self.root.root_signer)
        self.root.declare(REGION, ROOT)
        self.root.declare(OTHER, ROOT)
        self.root.declare(ZONE, REGION, zone)
        self.write(ZONE, "nodes/n1", "placement", node_pb2.Placement(domain=ZONE, epoch=1))
        self.gate = Gate(self.root.state, ROOT, ["user:configured"], enforced=True)

    def write(self, domain: str, subject: str, aspect: str, body: Any) -> None:
        self.root.submit(lambda p: p.write(domain, subject, aspect, body, principal="user:test"))

    def bind(self, member: str, role: Role, domain: str, *, exists: bool = True) -> None:
        spec = role_binding_pb2.RoleBindingSpec(members=[member])
        spec.role = role.value  # type: ignore[assignment]
        name = f"bindings/{role.label}-{member.partition(':')[2]}"
        existence = domain_pb2.Existence(exists=exists, time=timestamp(1))
        self.write(domain, name, "existence", existence)
        self.write(domain, name, "role_binding", spec)
        self.gate = Gate(self.root.state, ROOT, ["user:configured"], enforced=True)


@pytest.fixture
def federation() -> Federation:
    return Federation()


def request_of(method: str, domain: str) -> Any:
    """A request of a method that is about one domain, and node n1 of the zone where it is about a node."""
    service, _, name = method.lstrip("/").rpartition("/")
    package = service.rpartition(".")[0]
    for module in ("attention_service", "audit_service", "bundle_service", "command_service", "federation_service",
                   "fleet_service", "graph_service", "policy_service", "replay_service",
                   "supply_service", "access_service", "attestation_service", "enrolment_service",
                   "revocation_service"):  # fmt: skip
        try:
            file = import_module(f"{package}.{module}_pb2").DESCRIPTOR
        except ModuleNotFoundError:
            continue
        found = file.services_by_name.get(service.rpartition(".")[2])
        if found is not None:
            break
    else:
        raise AssertionError(method)
    request: Any = message_factory.GetMessageClass(found.methods_by_name[name].input_type)()
    fill(request, METHODS[method], domain)
    return request


def fill(request: Any, rule: Rule, domain: str) -> None:
    match rule.place:
        case Place.DOMAIN | Place.LISTED | Place.LISTED_HERE:
            request.domain = domain
        case Place.NAME:
            request.name = f"domains/{domain}"
        case Place.NODE:
            request.node = "n1"
        case Place.NAME_AND_DOMAIN:
            request.name, request.domain = f"domains/{domain}", domain
        case Place.PARENT_OF_DOMAIN:
            request.domain = ZONE
        case Place.PARENT_OF_NAME:
            request.name = f"domains/{ZONE}"
        case Place.PARENT_IN_SPEC:
            request.spec.parent = domain
        case Place.ITEMS:
            item = request.items.add()
            if "name" in item.DESCRIPTOR.fields_by_name:
                item.name = "nodes/n1"
            else:
                item.domain = domain
        case Place.TARGETS:
            request.targets.domain = domain
        case Place.ANYWHERE | Place.OWN:
            pass


def allowed(gate: Gate, method: str, request: Any, caller: Caller) -> bool:
    try:
        gate.admit(method, request, caller)
    except AccessDenied:
        return False
    return True


def alice(issued_by: str = "", via: tuple[str, ...] = ()) -> Caller:
    return Caller("user:alice", "test", None, via, issued_by)


@pytest.mark.parametrize("role", [None, *BINDABLE])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_role_at_every_method(federation: Federation, method: str, role: Role | None) -> None:
    if role is not None:
        federation.bind("user:alice", role, ROOT if role is Role.FLEET_ADMIN else REGION)
    rule = METHODS[method]
    enough = (role or Role.ANYBODY) >= rule.role
    within = rule.place is not Place.OWN or role is Role.FLEET_ADMIN or rule.role is Role.ANYBODY

    got = allowed(federation.gate, method, request_of(method, ZONE), alice())

    assert got == (enough and within)


@pytest.mark.parametrize(
    "method", sorted(m for m, r in METHODS.items() if r.place in (Place.DOMAIN, Place.NAME))
)
def test_a_role_elsewhere_gives_nothing_here(federation: Federation, method: str) -> None:
    federation.bind("user:alice", Role.DOMAIN_ADMIN, OTHER)
    assert not allowed(federation.gate, method, request_of(method, ZONE), alice())


def test_a_method_that_is_in_no_table_is_denied_to_all(federation: Federation) -> None:
    configured = Caller("user:configured", "test")
    assert not allowed(federation.gate, "/souverix.new.v1.NewService/Do", None, configured)


def test_an_admin_of_the_configuration_may_do_everything(federation: Federation) -> None:
    configured = Caller("user:configured", "test")
    assert all(
        allowed(federation.gate, method, request_of(method, ZONE), configured) for method in METHODS
    )


def test_a_denial_names_role_scope_and_next_step(federation: Federation) -> None:
    federation.bind("user:alice", Role.VIEWER, REGION)
    method = "/souverix.policy.v1.PolicyService/CreatePolicy"
    with pytest.raises(AccessDenied) as caught:
        federation.gate.admit(method, request_of(method, ZONE), alice())
    assert caught.value.metadata == {
        "principal": "user:alice",
        "method": "souverix.policy.v1.PolicyService/CreatePolicy",
        "role": "domain-admin",
        "domain": ZONE,
    }
    assert "viewer over region-a" in str(caught.value)
    assert f"souverixctl access grant {ZONE} domain-admin user:alice" in str(caught.value)


def test_a_deleted_binding_gives_nothing(federation: Federation) -> None:
    federation.bind("user:alice", Role.OPERATOR, REGION, exists=False)
    method = "/souverix.fleet.v1.FleetService/SetDesiredState"
    assert not allowed(federation.gate, method, request_of(method, ZONE), alice())


LIST = "/souverix.policy.v1.PolicyService/ListPolicies"


def test_a_list_of_everything_is_narrowed_to_the_callers_part(federation: Federation) -> None:
    federation.bind("user:alice", Role.VIEWER, REGION)
    request = request_of(LIST, "")

    federation.gate.admit(LIST, request, alice())

    assert (request.domain, request.include_subtree) == (REGION, True)


def test_who_sees_two_parts_must_name_one(federation: Federation) -> None:
    federation.bind("user:alice", Role.VIEWER, ZONE)
    federation.bind("user:alice", Role.OPERATOR, OTHER)
    with pytest.raises(AccessDenied, match=r"a domain of: edge-a1, region-b$"):
        federation.gate.admit(LIST, request_of(LIST, ""), alice())


def test_a_list_without_subtrees_is_not_narrowed_but_refused(federation: Federation) -> None:
    federation.bind("user:alice", Role.VIEWER, REGION)
    method = "/souverix.command.v1.CommandService/ListCommands"
    with pytest.raises(AccessDenied, match="ask for a domain of: region-a"):
        federation.gate.admit(method, request_of(method, ""), alice())


def test_who_sees_all_is_shown_all(federation: Federation) -> None:
    request = request_of(LIST, "")
    federation.gate.admit(LIST, request, Caller("user:configured", "test"))
    assert request.domain == ""


def test_a_certificate_bounds_what_bindings_give(federation: Federation) -> None:
    federation.bind("user:alice", Role.FLEET_ADMIN, ROOT)
    method = "/souverix.policy.v1.PolicyService/CreatePolicy"
    for domain, good in ((ZONE, True), (REGION, False), (OTHER, False), (ROOT, False)):
        request = request_of(method, domain)
        assert allowed(federation.gate, method, request, alice(issued_by=ZONE)) == good


def test_an_authority_of_a_sibling_can_name_nobody_here(federation: Federation) -> None:
    federation.bind("user:alice", Role.DOMAIN_ADMIN, REGION)
    method = "/souverix.policy.v1.PolicyService/CreatePolicy"
    assert not allowed(federation.gate, method, request_of(method, ZONE), alice(issued_by=OTHER))


def test_a_forwarder_is_believed_within_its_subtree_only(federation: Federation) -> None:
    federation.bind("user:alice", Role.FLEET_ADMIN, ROOT)
    method = "/souverix.policy.v1.PolicyService/CreatePolicy"
    by_zone = alice(issued_by=ROOT, via=("edge-a1-control",))
    assert allowed(federation.gate, method, request_of(method, ZONE), by_zone)
    assert not allowed(federation.gate, method, request_of(method, REGION), by_zone)
    by_nobody = alice(via=("stranger",))
    assert not allowed(federation.gate, method, request_of(method, ZONE), by_nobody)


@pytest.mark.parametrize("method", sorted(MACHINE_METHODS))
@pytest.mark.parametrize("kind", ["user", "controller", "node", "relay"])
def test_streams_of_machines_are_for_their_kind_of_certificate(
    federation: Federation, method: str, kind: str
) -> None:
    caller = Caller(f"{kind}:x", "test", None, (), ROOT)
    fits = kind in {each.value for each in MACHINE_METHODS[method]}
    assert allowed(federation.gate, method, None, caller) == fits


def test_a_write_is_held_to_the_domain_it_turned_out_to_be_of(federation: Federation) -> None:
    federation.bind("user:alice", Role.OPERATOR, REGION)
    method = "/souverix.attention.v1.AttentionService/AcknowledgeItem"
    federation.gate.check_write(method, alice(), ZONE)
    with pytest.raises(AccessDenied):
        federation.gate.check_write(method, alice(), OTHER)


def test_nothing_is_asked_where_roles_are_not_enforced(federation: Federation) -> None:
    gate = Gate(federation.root.state, ROOT)
    assert all(allowed(gate, method, request_of(method, ZONE), alice()) for method in METHODS)
