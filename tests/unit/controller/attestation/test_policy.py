"""Policies along a path, joined: a nearer domain may expect more, never less."""

from __future__ import annotations

import itertools
import random
from typing import Any

from google.protobuf.duration_pb2 import Duration

from controller.attestation.policy import DEFAULT_INTERVAL_MS, expected_in
from controller.attestation.states import Evidence
from controller.attestation.verdict import Baseline, judge
from souverix.trust.v1 import attestation_pb2
from tests.federation_fixture import ROOT, MemoryController, root_controller
from tests.unit.controller.attestation.attestations import KEY, said, value

Spec = attestation_pb2.AttestationPolicySpec
ATTENTION = attestation_pb2.FAILURE_ACTION_ATTENTION
QUARANTINE = attestation_pb2.FAILURE_ACTION_QUARANTINE
NOTHING = attestation_pb2.FAILURE_ACTION_NOTHING


def tree() -> MemoryController:
    """The root with region-a below it."""
    root = root_controller()
    root.declare(
        "region-a", ROOT, MemoryController("region-a-control", "region-a", root.root_signer)
    )
    return root


def declare(root: MemoryController, domain: str, spec: Spec) -> None:
    root.submit(
        lambda proposal: proposal.write(
            domain, f"domains/{domain}", "attestation_policy", spec, principal="user:test"
        )
    )


def rule(register: str, *allowed: int) -> Any:
    return attestation_pb2.RegisterRule(register=register, allowed=map(value, allowed))


def test_where_nobody_declares_anything_nothing_is_expected() -> None:
    expected = expected_in(tree().state, "region-a")
    assert not expected.is_anything
    assert (expected.interval_ms, expected.max_age_ms) == (
        DEFAULT_INTERVAL_MS,
        3 * DEFAULT_INTERVAL_MS,
    )
    assert expected.on_failure == ATTENTION


def test_levels_add_up_and_the_strictest_of_each_counts() -> None:
    root = tree()
    declare(
        root,
        ROOT,
        Spec(
            rules=[rule("kernel", 1, 2)],
            pinned_registers=["agent.program"],
            interval=Duration(seconds=600),
            on_failure=QUARANTINE,
        ),
    )
    declare(
        root,
        "region-a",
        Spec(
            rules=[rule("kernel", 2, 3)],
            pinned_registers=["files"],
            interval=Duration(seconds=3600),
            max_age=Duration(seconds=900),
            on_failure=NOTHING,
        ),
    )
    above, below = expected_in(root.state, ROOT), expected_in(root.state, "region-a")
    assert above.pinned == {"agent.program"}
    assert below.pinned == {"agent.program", "files"}
    assert (below.on_failure, below.max_age_ms) == (QUARANTINE, 900_000)
    # Twice within the time that a verification counts.
    assert below.interval_ms == 450_000
    for number in range(1, 5):
        verdict = judge(
            said(KEY, **{"kernel": number, "agent.program": 1, "files": 1}), below, Baseline()
        )
        assert (verdict.evidence is Evidence.HOLDS) == (number == 2)


def test_by_chance_whatever_holds_below_holds_above() -> None:
    chance = random.Random(5)
    registers = ("a", "b", "c")
    for _ in range(60):
        root = tree()
        for domain in (ROOT, "region-a"):
            rules = [
                rule(register, *chance.sample(range(4), chance.randrange(1, 4)))
                for register in registers
                if chance.random() < 0.5
            ]
            pinned = [register for register in registers if chance.random() < 0.5]
            declare(root, domain, Spec(rules=rules, pinned_registers=pinned))
        above, below = expected_in(root.state, ROOT), expected_in(root.state, "region-a")
        baseline = Baseline({register: value(1) for register in registers}, KEY)
        for measured in itertools.product(range(4), repeat=3):
            statement = said(KEY, **dict(zip(registers, measured, strict=True)))
            if judge(statement, below, baseline).evidence is Evidence.HOLDS:
                assert judge(statement, above, baseline).evidence is not Evidence.CONTRADICTS
