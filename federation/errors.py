"""What can go wrong in the core, grouped by who must act. Owns no texts for protocols: `controller/errors.py` maps
these to gRPC status.
"""

from __future__ import annotations


class FederationError(Exception):
    """Root of the core's errors. `reason` is stable and UPPER_SNAKE; `metadata` names what the reader needs."""

    reason = "FEDERATION_ERROR"

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.metadata = metadata


class CallerError(FederationError):
    """The caller must change the request."""


class InvalidWrite(CallerError):
    """The request is malformed or out of bounds."""

    reason = "INVALID_WRITE"


class NotFound(CallerError):
    """The subject does not exist here."""

    reason = "NOT_FOUND"


class AlreadyExists(CallerError):
    """The id is taken."""

    reason = "ALREADY_EXISTS"


class EtagMismatch(CallerError):
    """The caller has not seen the present value: read again, then decide."""

    reason = "ETAG_MISMATCH"


class RequestIdReused(CallerError):
    """The request_id was used for something else within the idempotency window."""

    reason = "REQUEST_ID_REUSED"


class WrongState(CallerError):
    """The subject's state does not allow the request."""

    reason = "FAILED_PRECONDITION"


class KeyNotInForce(WrongState):
    """The controller may seal nothing with the key it has."""

    reason = "SIGNING_KEY_NOT_IN_FORCE"


class NotVerified(WrongState):
    """What is to be run is not verified: sign it, believe its signer, or open the gate."""

    reason = "VERSION_NOT_VERIFIED"


class AuthorityError(FederationError):
    """Another controller must do it, or an operator must move the authority."""

    reason = "NOT_MASTER_OF_RECORD"


class OutOfReach(AuthorityError):
    """The domain is neither the controller's own nor in its subtree."""

    reason = "DOMAIN_OUT_OF_REACH"


class PeerError(FederationError):
    """A peer sent what the protocol forbids; the session ends."""

    reason = "PEER_PROTOCOL_ERROR"


class CorruptStore(FederationError):
    """What was kept beside the log cannot be read; it is made anew from the log."""

    reason = "CORRUPT_STORE"


class CorruptLog(FederationError):
    """The log contradicts itself; an operator must look."""

    reason = "CORRUPT_LOG"
