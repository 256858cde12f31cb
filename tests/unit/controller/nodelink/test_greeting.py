"""Who is taken in, and where."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from controller.nodelink.greeting import Enrolment, NotWelcome
from controller.nodelink.rate import TokenBucket
from controller.signing import Ed25519Signer, Ed25519Verifier
from federation.state import State
from souverix.fleet.v1 import node_pb2
from souverix.nodelink.v1 import nodelink_pb2
from tests.federation_fixture import ROOT, MemoryController, genesis_of

HELLO = nodelink_pb2.AgentHello(node="n1", spec=node_pb2.NodeSpec())


def test_nodes_enrol_after_a_start_from_the_store() -> None:
    """Such a start fills the state after the services were made, from a state of its own."""
    root = Ed25519Signer.generate()
    known = MemoryController("global-control", ROOT, root)
    known.submit(
        lambda p: p.write(
            ROOT,
            f"domains/{ROOT}",
            "genesis",
            genesis_of(root, "global-control", known.signer),
            principal="user:root",
        )
    )
    state = State("global-control", Ed25519Verifier(), root.public_key)
    enrolment = Enrolment(True, TokenBucket(10, 10, 0.0), state)
    journal: Any = SimpleNamespace(
        identity=SimpleNamespace(domain=ROOT, controller="global-control"), state=state
    )
    with pytest.raises(NotWelcome, match="does not know its authority yet"):
        enrolment.check(journal, HELLO, 1.0)
    state.take_over(known.state)
    assert enrolment.check(journal, HELLO, 1.0).domain == ROOT
