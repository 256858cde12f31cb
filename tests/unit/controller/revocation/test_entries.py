"""The index of what is revoked: the same whatever the order in which facts come, and free of what has expired."""

from __future__ import annotations

import itertools

import pytest

from controller.revocation.entries import Revocations
from controller.revocation.knocks import MAX_CALLERS, Knocks
from controller.revocation.targets import (
    ASPECT,
    Issued,
    is_subject,
    subject_of,
    subject_of_identity,
)
from federation.errors import InvalidWrite
from souverix.trust.v1 import revocation_pb2
from tests.federation_fixture import ROOT, MemoryController, controller_below, root_controller

ONE = "a" * 64
NOBODY = "user:nobody"


class Clock:
    """A time that a test moves."""

    def __init__(self, now_ms: int = 0) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


def state_revocation(
    by: MemoryController, domain: str, before_s: int | None = None, expire_s: int | None = None
) -> None:
    """One of a fingerprint, or of n1's certificates before a time."""
    spec = revocation_pb2.RevocationSpec(reason="lost")
    if before_s is None:
        spec.certificates.fingerprint = ONE
    else:
        spec.certificates.identity.principal = "node:n1"
        spec.certificates.identity.issued_before.seconds = before_s
    if expire_s is not None:
        spec.expire_time.seconds = expire_s
    by.submit(
        lambda p: p.write(domain, subject_of(spec.certificates), ASPECT, spec, principal="user:a")
    )


def test_of_concurrent_statements_the_latest_time_counts_in_any_order() -> None:
    for first_s, second_s in ((100, 200), (200, 100)):
        root = root_controller()
        region = controller_below(root, "region-a-control", "region-a")
        state_revocation(root, "region-a", first_s, 1000)
        state_revocation(region, "region-a", second_s, 2000)
        region.receive_from(root)
        root.receive_from(region)
        for controller in (root, region):
            index = Revocations(controller.state, Clock())
            assert index.find((), "region-a", "node:n1", 199) is not None
            assert index.find((), "region-a", "node:n1", 200) is None
            entry = index.held("region-a", subject_of_identity("node:n1"))
            assert entry is not None
            assert entry.expire_ms == 2_000_000


def test_it_follows_commits_as_it_reads_them_after_a_restart() -> None:
    root = root_controller()
    index = Revocations(root.state, Clock())
    certificate = Issued(ROOT, ONE, "1f")
    assert index.find((certificate,), ROOT, NOBODY, 0) is None
    state_revocation(root, ROOT)
    assert root.last_applied is not None
    index.note(root.last_applied)
    for each in (index, Revocations(root.state, Clock())):
        assert each.find((certificate,), ROOT, NOBODY, 0) is not None
        assert each.find((certificate._replace(domain="region-a"),), ROOT, NOBODY, 0) is None
        assert each.count(ROOT) == 1


def test_what_has_expired_is_given_up_unless_it_was_prolonged() -> None:
    root, clock = root_controller(), Clock()
    index = Revocations(root.state, clock)
    assert index.count(ROOT) == 0
    for expire_s in (10, 20):
        state_revocation(root, ROOT, 5, expire_s)
        assert root.last_applied is not None
        index.note(root.last_applied)
    clock.now_ms = 10_000
    assert index.count(ROOT) == 1
    clock.now_ms = 20_000
    assert index.count(ROOT) == 0
    assert index.find((), ROOT, "node:n1", 1) is None
    assert Revocations(root.state, clock).count(ROOT) == 0
    assert index.find_ever((), ROOT, "node:n1", 1) is not None
    assert index.find_ever((), ROOT, "node:n1", 5) is None


def test_without_an_end_it_stays() -> None:
    root = root_controller()
    state_revocation(root, ROOT)
    assert Revocations(root.state, Clock(2**45)).count(ROOT) == 1


def test_a_value_that_contradicts_its_subject_takes_nothing_back() -> None:
    root = root_controller()
    state_revocation(root, ROOT)
    other = revocation_pb2.RevocationSpec(reason="none")
    other.certificates.fingerprint = "b" * 64
    subject = f"revocations/sha256-{ONE}"
    root.submit(lambda p: p.write(ROOT, subject, ASPECT, other, principal="user:a"))
    index = Revocations(root.state, Clock())
    assert index.find((Issued(ROOT, ONE, "1f"),), ROOT, NOBODY, 0) is not None


@pytest.mark.parametrize(
    "subject",
    [f"revocations/sha256-{ONE}", "revocations/serial-1f", "revocations/identity-node-Edge_7.a-b"],
)
def test_subjects_are_told_from_others(subject: str) -> None:
    assert is_subject(subject)
    for false in (
        subject + "/x",
        subject.replace("revocations", "bindings"),
        subject[:-1] + "é",
        "",
    ):
        assert not is_subject(false)


def test_what_names_nothing_is_refused() -> None:
    made = itertools.starmap(
        lambda field, value: revocation_pb2.RevokedCertificates(**{field: value}),
        [
            ("fingerprint", "abc"),
            ("fingerprint", "A" * 64),
            ("serial_number", ""),
            ("serial_number", "0f"),
            ("serial_number", "1" * 41),
        ],
    )
    for certificates in (*made, revocation_pb2.RevokedCertificates()):
        with pytest.raises(InvalidWrite):
            subject_of(certificates)
    for principal in ("", "node:", "node:a b", "ca:region-a", "edge-7", "node:" + "a" * 129):
        with pytest.raises(InvalidWrite):
            subject_of_identity(principal)


def test_callers_remembered_are_bounded_and_those_that_were_silent_longest_go() -> None:
    clock = Clock(1)
    knocks = Knocks(clock)
    for number in range(MAX_CALLERS + 1):
        knocks.take("region-a", f"node:n{number}", "revoked")
    knocks.take("region-a", "node:n1", "revoked")
    names = [knock.principal for knock in knocks.recent()]
    assert len(names) == MAX_CALLERS
    assert "node:n0" not in names
    assert names[-1] == "node:n1"
