from __future__ import annotations

import itertools

import pytest

from federation.authority import AuthorityTable, Permission, Placement, next_record
from federation.codec import Write
from federation.errors import AuthorityError, OutOfReach, WrongState
from federation.identifiers import Origin
from souverix.federation.v1 import authority_pb2

#: domain -> (parent, controller)
TREE = {
    "global": ("", "global-control"),
    "region-a": ("global", "region-a-control"),
    "edge-a1": ("region-a", "edge-a1-control"),
    "region-b": ("global", "region-b-control"),
}


def record(domain: str, **fields: object) -> authority_pb2.AuthorityRecord:
    parent, controller = TREE[domain]
    made = authority_pb2.AuthorityRecord(
        domain=domain, parent=parent, master_of_record=controller, controller=controller, term=1
    )
    for name, value in fields.items():
        if name == "since":
            made.since.extend(value)  # type: ignore[arg-type]
        elif name == "autonomy":
            made.autonomy.CopyFrom(value)  # type: ignore[arg-type]
        else:
            setattr(made, name, value)
    return made


def table(*changed: authority_pb2.AuthorityRecord) -> AuthorityTable:
    made = AuthorityTable()
    for domain in TREE:
        made.put(record(domain))
    for other in changed:
        made.put(other)
    return made


def write(controller: str, term: tuple[int, ...]) -> Write:
    return Write(
        Origin(controller, 1), 1, 1, "policies/p1", "policy", (), term, "", "", False, (), b""
    )


# The tree.


def test_path_leads_from_the_root_to_the_domain() -> None:
    assert table().path_of("edge-a1") == ("global", "region-a", "edge-a1")


def test_path_is_unknown_while_a_record_of_it_is_missing() -> None:
    made = AuthorityTable()
    made.put(record("edge-a1"))
    made.put(record("global"))
    assert made.path_of("edge-a1") is None
    assert made.term_of("edge-a1") == ()
    made.put(record("region-a"))
    assert made.path_of("edge-a1") == ("global", "region-a", "edge-a1")
    assert made.term_of("edge-a1") == (1, 1, 1)


def test_records_that_name_each_other_as_parent_have_no_path() -> None:
    made = AuthorityTable()
    made.put(record("region-a", parent="edge-a1"))
    made.put(record("edge-a1"))
    assert made.path_of("edge-a1") is None


def test_subtree_lists_parents_before_children() -> None:
    assert table().subtree_of("global") == ["global", "region-a", "region-b", "edge-a1"]
    assert table().subtree_of("region-b") == ["region-b"]


def test_domain_is_within_itself_and_its_ancestors() -> None:
    made = table()
    assert all(made.is_within("edge-a1", above) for above in ("edge-a1", "region-a", "global"))
    assert not made.is_within("region-a", "edge-a1")
    assert not made.is_within("edge-a1", "region-b")


def test_controller_serves_the_domain_whose_record_names_it() -> None:
    assert table().domain_served_by("region-a-control") == "region-a"
    assert table().domain_served_by("nobody") is None


# Terms.


def test_term_is_the_path_of_terms() -> None:
    assert table(record("region-a", term=4)).term_of("edge-a1") == (1, 4, 1)


def test_event_of_an_unbroken_mastership_ranks_at_the_current_term() -> None:
    made = table(record("region-a", term=2), record("edge-a1", since=[1, 1, 1]))
    assert made.rank_term("edge-a1", write("edge-a1-control", (1, 1, 1))) == (1, 2, 1)


def test_event_from_before_its_masters_mastership_keeps_its_own_term() -> None:
    made = table(record("edge-a1", term=3, since=[1, 1, 3]))
    assert made.rank_term("edge-a1", write("edge-a1-control", (1, 1, 1))) == (1, 1, 1)


def test_event_of_a_superseded_master_keeps_its_own_term() -> None:
    made = table(record("edge-a1", term=2, since=[1, 1, 2], master_of_record="region-a-control"))
    assert made.rank_term("edge-a1", write("edge-a1-control", (1, 1, 1))) == (1, 1, 1)
    assert made.rank_term("edge-a1", write("region-a-control", (1, 1, 2))) == (1, 1, 2)


# Where a write is to be made.


def decide(
    made: AuthorityTable,
    controller: str,
    domain: str,
    permission: Permission = Permission.POLICIES,
    *,
    link_up: bool,
) -> Placement:
    own = made.domain_served_by(controller) or ""
    return made.decide_write(controller, own, domain, permission, link_up=link_up).place


@pytest.mark.parametrize("link_up", [True, False])
def test_master_of_record_writes_itself(link_up: bool) -> None:
    assert decide(table(), "edge-a1-control", "edge-a1", link_up=link_up) is Placement.LOCAL


@pytest.mark.parametrize(
    ("controller", "domain"),
    [
        ("region-a-control", "edge-a1"),
        ("edge-a1-control", "global"),
        ("region-b-control", "edge-a1"),
    ],
)
def test_others_pass_a_write_on_while_the_link_is_up(controller: str, domain: str) -> None:
    autonomous = record(table().domain_served_by(controller) or "", autonomy=autonomy(True))
    made = table(autonomous)
    assert decide(made, controller, domain, link_up=True) is Placement.FORWARD
    assert (
        made.decide_write(controller, "x", domain, Permission.POLICIES, link_up=True).master
        == TREE[domain][1]
    )


def autonomy(granted: bool) -> authority_pb2.Autonomy:
    return authority_pb2.Autonomy(
        can_operate_isolated=granted, can_modify_policies=granted, can_deploy_versions=granted
    )


@pytest.mark.parametrize("permission", list(Permission))
def test_autonomy_allows_what_it_grants_and_nothing_else(permission: Permission) -> None:
    for granted in Permission:
        grant = authority_pb2.Autonomy()
        setattr(grant, granted.value, True)
        made = table(record("region-a", autonomy=grant))
        if granted is permission:
            place = decide(made, "region-a-control", "edge-a1", permission, link_up=False)
            assert place is Placement.LOCAL_OPTIMISTIC
        else:
            with pytest.raises(AuthorityError) as refused:
                decide(made, "region-a-control", "edge-a1", permission, link_up=False)
            assert refused.value.metadata["permission"] == permission.value
            assert refused.value.metadata["master"] == "edge-a1-control"


@pytest.mark.parametrize("domain", ["global", "region-b"])
def test_autonomy_reaches_no_further_than_the_own_subtree(domain: str) -> None:
    made = table(record("region-a", autonomy=autonomy(True)))
    with pytest.raises(OutOfReach, match=TREE[domain][1]):
        decide(made, "region-a-control", domain, link_up=False)


def test_autonomy_of_the_governed_domain_does_not_count_for_the_writer() -> None:
    made = table(record("edge-a1", autonomy=autonomy(True)))
    with pytest.raises(AuthorityError):
        decide(made, "region-a-control", "edge-a1", link_up=False)


def test_domain_without_a_record_takes_no_writes() -> None:
    for link_up in (True, False):
        with pytest.raises(AuthorityError, match="no authority record"):
            table().decide_write(
                "edge-a1-control", "edge-a1", "nowhere", Permission.OPERATE, link_up=link_up
            )


def test_master_that_is_to_hand_over_writes_no_more() -> None:
    made = table(record("edge-a1", next_master="region-a-control"))
    for link_up in (True, False):
        with pytest.raises(WrongState, match="handed over to region-a-control"):
            decide(made, "edge-a1-control", "edge-a1", link_up=link_up)


def test_next_master_writes_only_once_its_record_is_in_force() -> None:
    made = table(record("edge-a1", next_master="region-a-control"))
    assert decide(made, "region-a-control", "edge-a1", link_up=True) is Placement.FORWARD
    with pytest.raises(AuthorityError):
        decide(made, "region-a-control", "edge-a1", link_up=False)


# The next record.


def test_planned_transfer_first_names_who_is_to_follow() -> None:
    current = record("edge-a1", since=[1, 1, 1])
    made = next_record(current, "region-a-control", force=False, reason="works", parent_term=(1, 1))
    assert (made.master_of_record, made.next_master) == ("edge-a1-control", "region-a-control")
    assert (made.term, list(made.since)) == (1, [1, 1, 1])


def test_forced_transfer_is_complete_one_term_later_and_begins_a_new_mastership() -> None:
    current = record("edge-a1", since=[1, 1, 1], next_master="region-a-control")
    made = next_record(current, "region-a-control", force=True, reason="fire", parent_term=(1, 4))
    assert (made.master_of_record, made.next_master, made.forced) == ("region-a-control", "", True)
    assert (made.term, list(made.since)) == (2, [1, 4, 2])
    assert current.master_of_record == "edge-a1-control"


@pytest.mark.parametrize("force", [True, False])
def test_transfer_to_the_present_master_calls_a_pending_one_off(force: bool) -> None:
    current = record("edge-a1", since=[1, 1, 1], next_master="region-a-control")
    made = next_record(current, "edge-a1-control", force=force, reason="no", parent_term=(1, 1))
    assert (made.master_of_record, made.next_master) == ("edge-a1-control", "")
    assert list(made.since) == [1, 1, 1]


def test_terms_of_successive_masters_grow() -> None:
    current = record("edge-a1", since=[1, 1, 1])
    terms = []
    for controller in itertools.islice(itertools.cycle(("region-a-control", "edge-a1-control")), 5):
        current = next_record(current, controller, force=True, reason="x", parent_term=(1, 1))
        terms.append(tuple(current.since))
    assert terms == sorted(set(terms))
