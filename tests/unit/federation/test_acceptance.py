from __future__ import annotations

import pytest

from controller.signing import Ed25519Signer, Ed25519Verifier
from federation.acceptance import (
    ACCEPTED,
    Outcome,
    Verdict,
    adopt_genesis,
    judge_event,
    judge_run,
)
from federation.authority import AuthorityTable
from federation.codec import Write, stream_from_message
from federation.identifiers import Lane, Origin, StreamId
from federation.keys import KeyRing
from souverix.event.v1 import event_pb2
from souverix.federation.v1 import authority_pb2
from souverix.policy.v1 import policy_pb2
from tests.federation_fixture import (
    ROOT,
    MemoryController,
    controller_below,
    genesis_of,
    root_controller,
)

#: Of runs whose seal does not matter.
SEAL = event_pb2.Seal()


class Judge:
    """What one controller knows of keys and authority, and its verdict on others' runs."""

    def __init__(self, knows: MemoryController) -> None:
        self.decoder = knows.state.decoder
        self.keys = knows.state.keys
        self.table = knows.state.authority

    def run(self, run: event_pb2.Run, *, verified: bool = False) -> Verdict:
        stream = stream_from_message(run.stream)
        first = self.decoder.decode(stream, run.first_sequence, run.events[0])
        return judge_run(
            stream,
            run.seal,
            first,
            run.first_sequence,
            self.keys,
            self.table,
            verified=verified,
        )

    def event(self, run: event_pb2.Run) -> Verdict:
        stream = stream_from_message(run.stream)
        write = self.decoder.decode(stream, run.first_sequence, run.events[0])
        assert write is not None
        return judge_event(stream, write, run.seal, self.keys, self.table)


@pytest.fixture
def root() -> MemoryController:
    return root_controller()


@pytest.fixture
def region(root: MemoryController) -> MemoryController:
    return controller_below(root, "region-a-control", "region-a")


def last_run(controller: MemoryController) -> event_pb2.Run:
    return controller.commits[-1].runs[-1]


# Genesis.


def test_genesis_signed_by_the_root_key_puts_the_root_in_force(root: MemoryController) -> None:
    newcomer = MemoryController("newcomer", "anywhere", root.root_signer)
    assert Judge(newcomer).run(root.commits[0].runs[0]) == ACCEPTED
    assert newcomer.state.authority.path_of(ROOT) == (ROOT,)
    assert newcomer.state.keys.domain_of(root.name) == ROOT


def test_genesis_of_another_root_key_waits_like_anything_of_an_unknown_writer(
    root: MemoryController,
) -> None:
    stranger = MemoryController("stranger", "anywhere", Ed25519Signer.generate())
    assert Judge(stranger).run(root.commits[0].runs[0]) == Verdict(Outcome.PENDING, "KEY_UNKNOWN")
    assert stranger.state.authority.records == {}


@pytest.mark.parametrize(
    "changed",
    [
        {"sequence": 2},
        {"aspect": "authority"},
    ],
)
def test_genesis_counts_only_as_the_first_event_of_its_stream(
    root: MemoryController, changed: dict[str, object]
) -> None:
    stream = StreamId(ROOT, root.identity.origin, Lane.CONTROL)
    write = root.state.decoder.decode(stream, 1, root.commits[0].runs[0].events[0])
    assert write is not None
    keys = KeyRing(Ed25519Verifier(), root.root_signer.public_key)
    assert not adopt_genesis(write._replace(**changed), stream, keys, AuthorityTable())  # type: ignore[arg-type]


def test_genesis_in_a_foreign_stream_is_none(root: MemoryController) -> None:
    genesis = genesis_of(root.root_signer, root.name, root.signer)
    event = event_pb2.Event(subject="domains/global", genesis=genesis)
    for stream in (
        StreamId("region-a", root.identity.origin, Lane.CONTROL),
        StreamId(ROOT, Origin("someone", 1), Lane.CONTROL),
    ):
        write = root.state.decoder.decode(stream, 1, event.SerializeToString())
        keys = KeyRing(Ed25519Verifier(), root.root_signer.public_key)
        assert not adopt_genesis(write, stream, keys, AuthorityTable())


# Keys.


def test_run_waits_until_its_key_is_known(root: MemoryController, region: MemoryController) -> None:
    region.write_policy("region-a", "v1")
    newcomer = MemoryController("newcomer", "anywhere", root.root_signer)
    assert Judge(newcomer).run(last_run(region)) == Verdict(Outcome.PENDING, "KEY_UNKNOWN")
    assert Judge(root).run(last_run(region)) == ACCEPTED


def test_seal_that_its_key_did_not_make_is_quarantined(
    root: MemoryController, region: MemoryController
) -> None:
    region.write_policy("region-a", "v1")
    forged = event_pb2.Run()
    forged.CopyFrom(last_run(region))
    forged.seal.signature = bytes(64)
    assert Judge(root).run(forged) == Verdict(Outcome.QUARANTINED, "SEAL_INVALID")


def test_grant_whose_id_is_not_its_keys_is_void(root: MemoryController) -> None:
    keys = KeyRing(Ed25519Verifier(), root.root_signer.public_key)
    key = Ed25519Signer.generate()
    keys.put(
        authority_pb2.KeyGrant(
            controller="c", domain="d", key_id="0" * 16, public_key=key.public_key
        )
    )
    assert not keys.knows("c", "0" * 16)
    assert keys.domain_of("c") is None


# Reach.


def test_run_in_a_domain_nobody_declared_waits(
    root: MemoryController, region: MemoryController
) -> None:
    region.write_policy("edge-a9", "v1")
    assert Judge(root).run(last_run(region)) == Verdict(Outcome.PENDING, "DOMAIN_UNKNOWN")


def test_declaration_below_the_writers_domain_makes_the_domain_known(
    root: MemoryController, region: MemoryController
) -> None:
    region.declare("edge-a1", "region-a")
    assert Judge(root).run(last_run(region)) == ACCEPTED


def test_declaration_below_a_domain_out_of_reach_makes_nothing_known(
    root: MemoryController, region: MemoryController
) -> None:
    region.receive_from(root)
    region.declare("stolen", ROOT)
    assert Judge(root).run(last_run(region)) == Verdict(Outcome.PENDING, "DOMAIN_UNKNOWN")


@pytest.mark.parametrize("domain", [ROOT, "region-b"])
def test_writer_reaches_its_own_subtree_only(
    root: MemoryController, region: MemoryController, domain: str
) -> None:
    root.declare("region-b", ROOT)
    region.write_policy(domain, "v1")
    assert Judge(root).run(last_run(region)) == Verdict(Outcome.QUARANTINED, "OUT_OF_REACH")


def test_grant_of_a_foreign_domain_takes_nothing_from_a_controller(
    root: MemoryController, region: MemoryController
) -> None:
    """Another region grants keys to a name that is taken: a key of its own, and the very key of the first."""
    other = controller_below(root, "region-b-control", "region-b")
    namesake = MemoryController(region.name, "region-b", root.root_signer)
    for controller in (namesake, region):
        grant = authority_pb2.KeyGrant(
            controller=region.name,
            domain="cell-b",
            key_id=controller.signer.key_id,
            public_key=controller.signer.public_key,
        )
        root.state.keys.put(grant)
    other.declare("cell-b", "region-b")
    root.receive_from(other)

    region.write_policy("region-a", "v1")
    assert Judge(root).run(last_run(region)) == ACCEPTED
    namesake.write_policy("region-a", "v1")
    assert Judge(root).run(last_run(namesake)) == Verdict(Outcome.QUARANTINED, "OUT_OF_REACH")
    namesake.write_policy("cell-b", "v1")
    assert Judge(root).run(last_run(namesake)) == ACCEPTED


# What an event claims.


def authority_run(
    writer: MemoryController, domain: str, record: authority_pb2.AuthorityRecord
) -> event_pb2.Run:
    writer.submit(
        lambda p: p.write(domain, f"domains/{domain}", "authority", record, principal="x")
    )
    return last_run(writer)


def test_controller_cannot_grant_itself(root: MemoryController, region: MemoryController) -> None:
    record = region.state.authority.records["region-a"]
    run = authority_run(region, "region-a", record)
    assert Judge(root).event(run) == Verdict(Outcome.QUARANTINED, "SELF_GRANT")


def test_grant_of_one_domain_in_anothers_stream_is_quarantined(
    root: MemoryController, region: MemoryController
) -> None:
    region.declare("edge-a1", "region-a")
    region.declare("edge-a2", "region-a")
    root.receive_from(region)
    run = authority_run(region, "edge-a1", region.state.authority.records["edge-a2"])
    assert Judge(root).event(run) == Verdict(Outcome.QUARANTINED, "WRONG_DOMAIN")


def test_domain_keeps_its_parent(root: MemoryController, region: MemoryController) -> None:
    region.declare("edge-a1", "region-a")
    root.receive_from(region)
    moved = authority_pb2.AuthorityRecord()
    moved.CopyFrom(region.state.authority.records["edge-a1"])
    moved.parent = ROOT
    run = authority_run(region, "edge-a1", moved)
    assert Judge(root).event(run) == Verdict(Outcome.QUARANTINED, "PARENT_CHANGED")


def policy_with_term(term: tuple[int, ...]) -> tuple[StreamId, Write]:
    stream = StreamId("region-a", Origin("region-a-control", 1), Lane.CONTROL)
    body = policy_pb2.PolicySpec()
    return stream, Write(
        stream.origin,
        1,
        1,
        "policies/p1",
        "policy",
        (),
        term,
        "",
        "",
        False,
        (),
        event_pb2.Event(policy=body).SerializeToString(),
    )


@pytest.mark.parametrize("term", [(), (1,), (1, 1)])
def test_event_under_a_known_term_is_accepted(
    root: MemoryController, region: MemoryController, term: tuple[int, ...]
) -> None:
    stream, write = policy_with_term(term)
    assert judge_event(stream, write, SEAL, root.state.keys, root.state.authority) == ACCEPTED


@pytest.mark.parametrize("term", [(1, 2), (2, 1), (1, 1, 1)])
def test_event_under_a_term_not_known_yet_waits(
    root: MemoryController, region: MemoryController, term: tuple[int, ...]
) -> None:
    stream, write = policy_with_term(term)
    verdict = judge_event(stream, write, SEAL, root.state.keys, root.state.authority)
    assert verdict == Verdict(Outcome.PENDING, "TERM_UNKNOWN")


# Admissions.


def admission_run(writer: MemoryController, domain: str, **fields: object) -> event_pb2.Run:
    record = authority_pb2.Admission(
        controller="edge-a1-control",
        incarnation=1,
        lane=int(Lane.STATE),
        first_sequence=1,
        last_sequence=1,
        received_stamp=1,
    )
    for name, value in fields.items():
        setattr(record, name, value)
    writer.submit(lambda p: p.write(domain, "admissions/x", "admission", record, principal="x"))
    return last_run(writer)


def test_only_a_controller_above_an_origin_caps_its_stamps(
    root: MemoryController, region: MemoryController
) -> None:
    zone = controller_below(region, "edge-a1-control", "edge-a1")
    root.receive_from(region)
    refused = Verdict(Outcome.QUARANTINED, "NOT_ABOVE_ORIGIN")
    assert Judge(root).event(admission_run(region, "edge-a1")) == ACCEPTED
    assert Judge(root).event(admission_run(zone, "edge-a1")) == refused
    run = admission_run(zone, "edge-a1", controller=region.name)
    assert Judge(root).event(run) == refused


def test_admission_of_an_unknown_origin_waits(
    root: MemoryController, region: MemoryController
) -> None:
    run = admission_run(region, "region-a")
    assert Judge(root).event(run) == Verdict(Outcome.PENDING, "KEY_UNKNOWN")


@pytest.mark.parametrize("lane", [0, 99])
def test_admission_that_names_no_lane_harms_nobody(
    root: MemoryController, region: MemoryController, lane: int
) -> None:
    zone = controller_below(region, "edge-a1-control", "edge-a1")
    assert zone.state.authority.path_of("edge-a1") is not None
    root.receive_from(region)
    record = authority_pb2.Admission(controller=zone.name, incarnation=1, lane=lane)
    body = event_pb2.Event(subject="admissions/x", admission=record)
    stream = StreamId("edge-a1", region.identity.origin, Lane.CONTROL)
    write = root.state.decoder.decode(stream, 9, body.SerializeToString())
    assert write is not None
    verdict = judge_event(stream, write, SEAL, root.state.keys, root.state.authority)
    assert verdict == Verdict(Outcome.QUARANTINED, "LANE_UNKNOWN")
