"""The proof of a renewal counts for one key, one nonce, one request."""

from __future__ import annotations

from tests.certificates import CertificateTree
from trust.authority import new_request
from trust.identity import Kind
from trust.keys import new_tls_key
from trust.renewal import is_proven, sign


def test_a_proof_counts_for_its_own_key_nonce_and_request(
    certificate_tree: CertificateTree,
) -> None:
    old = certificate_tree.leaf("region-a", Kind.NODE, "n1").read()
    request, nonce = new_request(new_tls_key()), bytes(range(32))
    proof = sign(old.key, nonce, request)
    assert is_proven(old.leaf, nonce, request, proof)
    other = certificate_tree.leaf("region-a", Kind.NODE, "n1").read()
    assert not is_proven(other.leaf, nonce, request, proof)
    assert not is_proven(old.leaf, bytes(32), request, proof)
    assert not is_proven(old.leaf, b"", request, proof)
    assert not is_proven(old.leaf, nonce, new_request(new_tls_key()), proof)
    assert not is_proven(old.leaf, nonce, request, b"no signature")
    # Where nonce and request meet cannot be moved.
    assert not is_proven(old.leaf, nonce + request[:1], request[1:], proof)
