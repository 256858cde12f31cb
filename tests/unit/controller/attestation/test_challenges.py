"""Challenges: single use, ending, bounded, each for one link."""

from __future__ import annotations

import random

import pytest

from controller.attestation.challenges import Challenge, Challenges
from controller.attestation.statement import Speaker, StatementRefused

LINK = b"token"


def challenge(node: str, nonce: bytes, made_s: float = 0.0, link: bytes = LINK) -> Challenge:
    return Challenge(nonce, Speaker("c", node, "s", "r"), link, made_s, None)


def refusal(challenges: Challenges, *asked: object) -> str:
    with pytest.raises(StatementRefused) as refused:
        challenges.take(*asked)  # type: ignore[arg-type]
    return refused.value.reason


def test_a_challenge_is_good_once() -> None:
    challenges = Challenges(ttl_s=30)
    made = challenge("n1", b"a")
    challenges.make(made)
    assert challenges.take("n1", LINK, b"a", 1) is made
    assert refusal(challenges, "n1", LINK, b"a", 1) == "REPLAYED"


def test_a_challenge_ends() -> None:
    challenges = Challenges(ttl_s=30)
    challenges.make(challenge("n1", b"a"))
    assert challenges.unanswered(30) == []
    assert refusal(challenges, "n1", LINK, b"a", 30.1) == "LATE"
    challenges.make(challenge("n1", b"b", 40))
    challenges.make(challenge("n2", b"c", 50))
    assert challenges.ends_s() == 70
    assert challenges.unanswered(71) == ["n1"]
    assert refusal(challenges, "n1", LINK, b"b", 71) == "LATE"
    assert len(challenges) == 1


def test_a_challenge_is_of_one_node_and_one_link() -> None:
    challenges = Challenges()
    challenges.make(challenge("n1", b"a"))
    assert refusal(challenges, "n2", LINK, b"a", 1) == "UNSOLICITED"
    assert refusal(challenges, "n1", b"other", b"a", 1) == "UNSOLICITED"
    assert challenges.take("n1", LINK, b"a", 1).speaker.node == "n1"


def test_a_new_challenge_voids_the_nodes_earlier_one() -> None:
    challenges = Challenges()
    challenges.make(challenge("n1", b"a"))
    challenges.make(challenge("n1", b"b", 1))
    assert refusal(challenges, "n1", LINK, b"a", 2) == "LATE"
    assert challenges.take("n1", LINK, b"b", 2).nonce == b"b"


def test_only_so_many_wait_and_are_remembered() -> None:
    challenges = Challenges(most=2)
    fullness = []
    for node in ("n1", "n2"):
        challenges.make(challenge(node, node.encode()))
        fullness.append(challenges.is_full)
    challenges.drop("n1")
    assert [*fullness, challenges.is_full] == [False, True, False]
    for number in range(10_000):
        challenges.make(challenge("n3", number.to_bytes(4, "big")))
    assert len(challenges._over) <= 4096
    challenges.clear()
    assert refusal(challenges, "n3", LINK, b"a", 1) == "UNSOLICITED"


def test_by_chance_no_nonce_is_ever_taken_twice() -> None:
    chance = random.Random(3)
    challenges = Challenges(ttl_s=5, most=8)
    taken: set[bytes] = set()
    made: list[tuple[str, bytes]] = []
    now_s = 0.0
    for number in range(5_000):
        now_s += chance.random()
        node = f"n{chance.randrange(8)}"
        if chance.random() < 0.4 and not challenges.is_full:
            nonce = number.to_bytes(4, "big")
            challenges.make(challenge(node, nonce, now_s))
            made.append((node, nonce))
        elif made:
            node, nonce = chance.choice(made[-20:])
            try:
                got = challenges.take(node, LINK, nonce, now_s)
            except StatementRefused:
                continue
            assert nonce not in taken
            assert now_s - got.made_s <= 5
            taken.add(nonce)
    assert len(taken) > 100
