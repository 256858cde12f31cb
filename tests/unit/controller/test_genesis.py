from __future__ import annotations

from controller.genesis import make_genesis
from controller.signing import Ed25519Signer, Ed25519Verifier
from federation.keys import genesis_message
from federation.state import State
from souverix.federation.v1 import authority_pb2


def test_a_genesis_names_the_roots_controller_and_is_signed_by_the_root_key_alone() -> None:
    root, key = Ed25519Signer.generate(), Ed25519Signer.generate()
    genesis = make_genesis(root, key, "global-control", "global")
    assert genesis.authority.master_of_record == genesis.authority.controller == "global-control"
    assert genesis.authority.level == authority_pb2.AUTHORITY_LEVEL_GLOBAL
    assert genesis.key.public_key == key.public_key
    assert genesis.key.key_id == key.key_id
    verifier = Ed25519Verifier()
    assert verifier.verify(root.public_key, genesis_message(genesis), genesis.signature)
    assert not verifier.verify(key.public_key, genesis_message(genesis), genesis.signature)


def test_a_genesis_that_was_changed_is_good_no_more() -> None:
    root, key = Ed25519Signer.generate(), Ed25519Signer.generate()
    genesis = make_genesis(root, key, "global-control", "global")
    state = State("global-control", Ed25519Verifier(), root.public_key)
    assert state.keys.genesis_is_good(genesis)
    genesis.authority.master_of_record = "somebody-else"
    assert not state.keys.genesis_is_good(genesis)
