"""Makes the signed genesis of a federation. Owns its contents; the root key stays with the operator."""

from __future__ import annotations

from controller.signing import Ed25519Signer
from federation.domains import FIRST_TERM
from federation.keys import genesis_message
from souverix.federation.v1 import authority_pb2


def make_genesis(
    root: Ed25519Signer, key: Ed25519Signer, controller: str, domain: str
) -> authority_pb2.Genesis:
    """The genesis of a federation whose root domain is served by `controller` with `key`, signed by `root`."""
    genesis = authority_pb2.Genesis(
        domain=domain,
        authority=authority_pb2.AuthorityRecord(
            domain=domain,
            level=authority_pb2.AUTHORITY_LEVEL_GLOBAL,
            master_of_record=controller,
            controller=controller,
            term=FIRST_TERM,
            since=[FIRST_TERM],
            autonomy=authority_pb2.Autonomy(
                can_operate_isolated=True, can_modify_policies=True, can_deploy_versions=True
            ),
            reason="genesis",
        ),
        key=authority_pb2.KeyGrant(
            controller=controller,
            domain=domain,
            key_id=key.key_id,
            public_key=key.public_key,
        ),
    )
    genesis.signature = root.sign(genesis_message(genesis))
    return genesis
