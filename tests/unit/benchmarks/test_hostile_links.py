"""Mutated frames of node links and relays: ten thousand of them, none of which is taken for what its node said."""

from __future__ import annotations

from collections import Counter

from benchmarks.hostile_links import judge, mutations, says_the_same

SEED = 35
CASES = 10_000


def test_no_mutated_frame_is_accepted_that_does_not_say_what_the_node_said() -> None:
    verdicts: Counter[tuple[str, str]] = Counter()
    for case in mutations(CASES, SEED):
        verdict = judge(case)
        assert verdict != "ACCEPTED" or says_the_same(case), case
        verdicts[case.kind, verdict] += 1
    assert sum(verdicts.values()) == CASES
    # Each check has had its say, or the mutations are none.
    for reason in (
        "CHAIN_BROKEN",
        "SEQUENCE_BROKEN",
        "SIGNATURE_INVALID",
        "UNDECODABLE",
        "CHUNK_MISSING",
    ):
        assert verdicts["replay", reason], reason
    assert verdicts["deposit", "SIGNATURE_INVALID"]
    assert verdicts["proof", "PROOF_FAILED"]
    assert verdicts["hello", "LINK_END_PROTOCOL_ERROR"]
    assert not verdicts["hello", "ACCEPTED"]


def test_the_same_seed_makes_the_same_frames() -> None:
    assert list(mutations(200, SEED)) == list(mutations(200, SEED))
    assert list(mutations(200, SEED)) != list(mutations(200, SEED + 1))
