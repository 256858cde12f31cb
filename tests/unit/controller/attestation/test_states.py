"""The table of states: what leads where, and what does not."""

from __future__ import annotations

import itertools

import pytest

from controller.attestation.states import TRANSITIONS, Evidence, Integrity, moved
from souverix.fleet.v1 import supply_chain_pb2


def test_numbers_are_the_wires() -> None:
    names = {
        Integrity.NEVER_ATTESTED: "UNSPECIFIED",
        **{state: state.name for state in Integrity if state},
    }
    for state, name in names.items():
        assert supply_chain_pb2.IntegrityState.Value(f"INTEGRITY_STATE_{name}") == state


@pytest.mark.parametrize(("state", "evidence"), list(itertools.product(Integrity, Evidence)))
def test_each_kind_of_evidence_at_each_state(state: Integrity, evidence: Evidence) -> None:
    after = moved(state, evidence)
    match evidence:
        case Evidence.HOLDS:
            assert after is Integrity.VERIFIED
        case Evidence.CONTRADICTS:
            assert after is Integrity.FAILED
        case Evidence.NOT_JUDGED:
            assert after is (state if state is Integrity.FAILED else Integrity.UNKNOWN)
        case Evidence.SILENT:
            assert after is (Integrity.UNKNOWN if state is Integrity.NEVER_ATTESTED else state)
        case Evidence.AGED:
            assert after is (Integrity.EXPIRED if state is Integrity.VERIFIED else state)


def test_only_evidence_that_holds_leads_out_of_failure() -> None:
    ways = [
        evidence
        for (state, evidence), edge in TRANSITIONS.items()
        if state is Integrity.FAILED and edge.to is not Integrity.FAILED
    ]
    assert ways == [Evidence.HOLDS]
