"""What a node says through a relay: opened when its agent signed it, over this very session. Owns which frames must be
signed; what they mean is for others to say.

A statement of attestation is signed by a key that it names itself, which is believed the first time: without the
agent's signature a relay could make one up. Heartbeats are not signed: a relay gathers them, and may well say that a
node is silent. Chunks of values are named by their digests, and a backlog is signed by itself.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from controller.nodelink.proof import said_message
from controller.nodelink.reports import ProtocolBroken
from federation.chain import Verifier
from souverix.nodelink.v1 import nodelink_pb2

#: Frames that take effect in the log.
SIGNED = frozenset({"report", "result", "attestation"})


class Speaker:
    """An agent behind a relay: its key, and the token of its session."""

    def __init__(self, verifier: Verifier, public_key: bytes, token: bytes) -> None:
        self._verifier = verifier
        self._public_key = public_key
        self._token = token

    def opened(self, request: nodelink_pb2.ConnectRequest) -> nodelink_pb2.ConnectRequest:
        """The frame that was said. Raises `ProtocolBroken` where it must be signed and is not."""
        kind = request.WhichOneof("kind")
        if kind in SIGNED:
            raise ProtocolBroken(f"a {kind} came through a relay unsigned")
        if kind != "signed":
            return request
        signed = request.signed
        message = said_message(self._token, signed.frame)
        if not self._verifier.verify(self._public_key, message, signed.signature):
            raise ProtocolBroken("a frame came through a relay that the agent did not sign so")
        try:
            said = nodelink_pb2.ConnectRequest.FromString(signed.frame)
        except DecodeError as error:
            raise ProtocolBroken("a signed frame is none") from error
        if said.WhichOneof("kind") not in SIGNED:
            raise ProtocolBroken(f"a frame was signed that is none of {', '.join(sorted(SIGNED))}")
        return said
