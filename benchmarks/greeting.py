"""What a made-up node says to be let in: its greeting, and the proof that it holds its key. Owns one key for all nodes,
which is enough to be made to verify.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nodeagent.proof import proof_message
from souverix.nodelink.v1 import nodelink_pb2

_KEY = Ed25519PrivateKey.generate()
_PUBLIC = _KEY.public_key().public_bytes_raw()
_RUN = "benchmark"


def greeting(node: str) -> nodelink_pb2.ConnectRequest:
    """The first frame."""
    hello = nodelink_pb2.AgentHello(node=node, source=_source(node), public_key=_PUBLIC, run=_RUN)
    return nodelink_pb2.ConnectRequest(hello=hello)


def answer(node: str, frame: nodelink_pb2.ConnectResponse) -> nodelink_pb2.ConnectRequest | None:
    """The answer to a challenge; None once the node is welcome. Raises `RuntimeError` when it is sent away."""
    if frame.HasField("goodbye"):
        raise RuntimeError(f"{node} was sent away: {frame.goodbye.message}")
    if not frame.HasField("challenge"):
        return None
    message = proof_message(
        frame.fence.controller, node, _source(node), _RUN, frame.challenge.nonce
    )
    proof = nodelink_pb2.AgentProof(signature=_KEY.sign(message))
    return nodelink_pb2.ConnectRequest(proof=proof)


def _source(node: str) -> str:
    return f"source-{node}"
