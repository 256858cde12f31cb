"""Who is let in, as pure decisions over facts, at times that are given."""

from __future__ import annotations

from typing import Any

import pytest

from controller.enrolment import enrolments, tokens
from controller.enrolment.enrolments import MAX_PENDING, WAITS_MS, Newcomer, Outcome, admit, decided
from controller.enrolment.errors import (
    EnrolmentLapsed,
    EnrolmentRefused,
    EnrolmentRejected,
    NameTaken,
    QueueFull,
    TokenExpired,
    TokenForeign,
    TokenUnknown,
    TokenUsed,
    WrongNode,
)
from controller.enrolment.queue import Waiting
from controller.enrolment.stages import TRANSITIONS, Stage, Step
from controller.twin.facts import body_of, timestamp
from federation.errors import NotFound, WrongState
from federation.identifiers import Key
from souverix.fleet.v1 import node_pb2
from souverix.trust.v1 import enrolment_pb2
from tests.federation_fixture import ROOT, MemoryController, controller_below, root_controller

T0_MS = 1_800_000_000_000
HOUR_MS = 3_600_000
SECRET = bytes(range(32))


class Zone:
    """A controller in memory, and a clock that stands until it is moved."""

    def __init__(self) -> None:
        self.controller: MemoryController = root_controller()
        self.state = self.controller.state
        self.now_ms = T0_MS
        self.waiting = Waiting(self.state)
        self.issued: list[Any] = []

    def write(self, subject: str, aspect: str, body: Any) -> None:
        self.controller.submit(
            lambda p: p.write(ROOT, subject, aspect, body, principal="user:test")
        )
        if self.controller.last_applied is not None:
            self.waiting.note(self.controller.last_applied)

    def token(self, name: str = "t1", **spec: Any) -> tokens.Shown:
        record = tokens.Record(secret_hash=tokens.hash_of(SECRET), creator="user:test")
        record.spec.CopyFrom(
            enrolment_pb2.EnrolmentTokenSpec(
                kind=enrolment_pb2.ENROLMENT_KIND_NODE,
                expire_time=timestamp(self.now_ms + HOUR_MS),
                **spec,
            )
        )
        shown = tokens.read(tokens.written(ROOT, name, SECRET))
        self.write(shown.subject, tokens.ASPECT, record)
        return shown

    def comes(
        self, token: tokens.Shown, node: str = "n1", key: bytes = b"k" * 32, pending: int = 0
    ) -> Outcome:
        """A machine comes, and what follows is written."""
        newcomer = Newcomer(node, token, key, "ipv4:192.0.2.7:4711")

        def certificate(kind: Any) -> bytes:
            self.issued.append((kind, node))
            return f"certificate {len(self.issued)}".encode()

        outcome = admit(self.state, newcomer, ROOT, self.now_ms, pending, certificate)
        if outcome.token is not None:
            self.write(token.subject, tokens.ASPECT, outcome.token)
        self.write(newcomer.subject, enrolments.ASPECT, outcome.record)
        return outcome

    def refusal(self, *comes: Any, **more: Any) -> type[Exception]:
        with pytest.raises((EnrolmentRefused, QueueFull)) as refused:
            self.comes(*comes, **more)
        return refused.type

    def decide(self, step: Step, node: str = "n1") -> None:
        subject = f"enrolments/{node}"
        held = body_of(self.state, Key(ROOT, subject, enrolments.ASPECT))
        record = decided(held, step, self.now_ms, "user:alice", "because", subject)
        self.write(subject, enrolments.ASPECT, record)


@pytest.fixture
def zone() -> Zone:
    return Zone()


def test_a_token_lets_one_key_in_and_gives_it_the_same_certificate_again(zone: Zone) -> None:
    token = zone.token()
    first = zone.comes(token)
    assert (first.stage, first.record.certificate) == (Stage.ISSUED, b"certificate 1")
    again = zone.comes(token)
    assert (again.record, again.token) == (first.record, None)
    assert zone.issued == [("node", "n1")]
    assert zone.refusal(token, key=b"x" * 32) is TokenUsed
    assert zone.refusal(token, node="n2") is TokenUsed


def test_each_wrong_token_is_told_apart_as_far_as_it_helps_nobody(zone: Zone) -> None:
    token = zone.token(node="n1")
    assert zone.refusal(token, node="n2") is WrongNode
    assert zone.refusal(token._replace(secret_hash=bytes(32))) is TokenUnknown
    assert zone.refusal(token._replace(id="t2")) is TokenUnknown
    assert zone.refusal(token._replace(domain="region-a")) is TokenForeign
    zone.now_ms += HOUR_MS - 1
    assert zone.comes(token).stage is Stage.ISSUED
    late = zone.token("t2")
    zone.now_ms += HOUR_MS
    assert zone.refusal(late, node="n3") is TokenExpired


@pytest.mark.parametrize(
    "text",
    ["", "a.b", "a.b.c", f"a.b.{'0' * 63}", f"A.b.{'0' * 64}", f"a.b.{'0' * 64}.d", "x" * 9999],
)
def test_what_is_no_token_is_none(text: str) -> None:
    with pytest.raises(TokenUnknown):
        tokens.read(text)


@pytest.mark.parametrize("aspect", ["actual_state", "enrolment"])
def test_a_token_for_any_node_admits_new_ones_only(zone: Zone, aspect: str) -> None:
    if aspect == "actual_state":
        zone.write("nodes/n1", aspect, node_pb2.ActualState())
    else:
        zone.comes(zone.token("t0"))
    assert zone.refusal(zone.token("t1")) is NameTaken
    assert zone.comes(zone.token("t2", node="n1")).stage is Stage.ISSUED


def test_a_token_for_any_node_does_not_name_one_of_a_domain_below(zone: Zone) -> None:
    region = controller_below(zone.controller, "region-a-control", "region-a")
    home = node_pb2.Placement(domain="region-a", epoch=1)
    seen = node_pb2.ActualState()
    for aspect, body in (("placement", home), ("actual_state", seen)):
        region.submit(
            lambda p, a=aspect, b=body: p.write("region-a", "nodes/n1", a, b, principal="node:n1")  # type: ignore[misc]
        )
    zone.controller.receive_from(region)
    assert zone.refusal(zone.token("t1")) is NameTaken
    assert zone.comes(zone.token("t2"), node="n2").stage is Stage.ISSUED


def test_who_waits_is_let_in_once_approved(zone: Zone) -> None:
    token = zone.token(needs_approval=True)
    assert zone.comes(token).stage is Stage.PENDING
    assert zone.comes(token).stage is Stage.PENDING
    assert zone.waiting.pending(ROOT, zone.now_ms) == 1
    assert not zone.issued
    zone.decide(Step.APPROVE)
    assert zone.waiting.pending(ROOT, zone.now_ms) == 0
    assert zone.refusal(token, key=b"x" * 32) is TokenUsed
    outcome = zone.comes(token)
    assert (outcome.stage, outcome.record.decided_by) == (Stage.ISSUED, "user:alice")
    with pytest.raises(WrongState):
        zone.decide(Step.REJECT)


def test_a_rejection_is_final_also_after_an_approval(zone: Zone) -> None:
    token = zone.token(needs_approval=True)
    zone.comes(token)
    zone.decide(Step.APPROVE)
    zone.decide(Step.REJECT)
    assert zone.refusal(token) is EnrolmentRejected
    with pytest.raises(WrongState):
        zone.decide(Step.APPROVE)
    with pytest.raises(NotFound):
        zone.decide(Step.APPROVE, "n2")


@pytest.mark.parametrize("approved", [False, True])
def test_what_waits_for_too_long_lapses(zone: Zone, approved: bool) -> None:
    token = zone.token(needs_approval=True)
    zone.comes(token)
    if approved:
        zone.decide(Step.APPROVE)
    zone.now_ms += WAITS_MS
    assert zone.refusal(token) is EnrolmentLapsed
    assert zone.waiting.pending(ROOT, zone.now_ms) == 0
    with pytest.raises(WrongState):
        zone.decide(Step.APPROVE)
    # The name is free again.
    assert zone.comes(zone.token("t2")).stage is Stage.ISSUED


def test_the_queue_has_an_end(zone: Zone) -> None:
    token = zone.token(needs_approval=True)
    assert zone.refusal(token, pending=MAX_PENDING) is QueueFull
    assert zone.comes(token, pending=MAX_PENDING - 1).stage is Stage.PENDING


def test_what_is_open_is_counted_from_facts_alone(zone: Zone) -> None:
    zone.token("t1")
    zone.comes(zone.token("t2"))
    zone.token("t3")
    for waiting in (zone.waiting, Waiting(zone.state)):
        assert waiting.open_tokens(ROOT, zone.now_ms) == 2
        assert waiting.open_tokens(ROOT, zone.now_ms + HOUR_MS) == 0


def test_only_a_decision_or_time_leads_out_of_waiting() -> None:
    ends = {Stage.REJECTED, Stage.LAPSED}
    assert not {stage for stage, _ in TRANSITIONS} & ends
    assert {to.to for (stage, _), to in TRANSITIONS.items() if stage is Stage.ISSUED} == {
        Stage.ISSUED
    }
