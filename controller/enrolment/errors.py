"""Why a machine is not let in, or may not renew: each with its own reason, so that whoever stands before the machine
knows what to do. Owns the reasons; judges nothing.
"""

from __future__ import annotations

from federation.errors import FederationError, WrongState
from trust.errors import CertificateRefused


class EnrolmentRefused(FederationError):
    """Root of what a machine is refused with. Another token, or an operator, is needed."""

    reason = "ENROLMENT_REFUSED"


class TokenUnknown(EnrolmentRefused):
    """There is no such token, or its secret is another: which of the two is not told."""

    reason = "ENROLMENT_TOKEN_UNKNOWN"


class TokenForeign(EnrolmentRefused):
    """The token is of another domain; ask that domain's controller."""

    reason = "ENROLMENT_TOKEN_FOREIGN"


class TokenExpired(EnrolmentRefused):
    """The token's time is over."""

    reason = "ENROLMENT_TOKEN_EXPIRED"


class TokenRevoked(EnrolmentRefused):
    """The token was taken back."""

    reason = "ENROLMENT_TOKEN_REVOKED"


class TokenUsed(EnrolmentRefused):
    """The token has admitted another key, or the certificate it admitted has ended."""

    reason = "ENROLMENT_TOKEN_USED"


class WrongNode(EnrolmentRefused):
    """The token is for another node."""

    reason = "ENROLMENT_NODE_MISMATCH"


class NameTaken(EnrolmentRefused):
    """A machine of that name is there, and the token is not made out to it."""

    reason = "ENROLMENT_NAME_TAKEN"


class EnrolmentRejected(EnrolmentRefused):
    """Somebody rejected it."""

    reason = "ENROLMENT_REJECTED"


class EnrolmentLapsed(EnrolmentRefused):
    """Nobody approved it in time, or its certificate was not fetched in time."""

    reason = "ENROLMENT_LAPSED"


class RenewalTooEarly(EnrolmentRefused):
    """The certificate is good for long yet."""

    reason = "RENEWAL_TOO_EARLY"


class RecoveryTooLate(EnrolmentRefused):
    """The certificate ended too long ago to prove anything; enrol anew."""

    reason = "RECOVERY_TOO_LATE"


class RenewalSuperseded(EnrolmentRefused):
    """A machine of that name was enrolled after the certificate was made: another holds the name now."""

    reason = "RENEWAL_SUPERSEDED"


class NonceUnknown(EnrolmentRefused):
    """The nonce was not given out by this replica, was used, or is too old; begin anew."""

    reason = "RECOVERY_NONCE_UNKNOWN"


class ProofWrong(EnrolmentRefused):
    """The signature is not by the key of the certificate that is shown."""

    reason = "RENEWAL_PROOF_WRONG"


class NoMachine(EnrolmentRefused):
    """The certificate is neither a node's nor a relay's."""

    reason = "RENEWAL_NOT_A_MACHINE"


class MachineForeign(EnrolmentRefused):
    """The certificate is of another domain; ask the controller that holds that domain's authority."""

    reason = "RENEWAL_FOREIGN"


class RequestRefused(EnrolmentRefused):
    """The certificate request, or the certificate that is shown, is none that counts."""

    def __init__(self, cause: CertificateRefused) -> None:
        super().__init__(str(cause))
        self.reason = cause.reason.value


class AuthorityNotHeld(WrongState):
    """This controller holds no certificate authority of the domain; ask the one that does, or configure it."""

    reason = "AUTHORITY_NOT_HELD"


class QueueFull(WrongState):
    """As much waits as may wait; decide about that first."""

    reason = "ENROLMENTS_FULL"
