"""Whether a certificate vouches for an agent's key. Owns the checks of a voucher and the reasons to refuse one; which
node it must name, and what follows from a refusal, is for others to say.

The certificate is judged by the authorities that this controller knows, as that of any caller is: a relay that carries
the voucher can withhold it and cannot make one.
"""

from __future__ import annotations

from controller.bearer import Bearer, Bearers
from controller.standing import BearerRefused
from souverix.nodelink.v1 import nodelink_pb2
from trust.certificates import parse_der, to_pem
from trust.errors import CertificateRefused
from trust.keys import is_signed_by_bearer

#: Longest signature that is looked at: of ECDSA P-256 in DER, 72 bytes.
MAX_SIGNATURE_BYTES = 72


class VoucherRefused(Exception):
    """No certificate vouches for the key. `reason` is a stable word."""

    def __init__(self, reason: str, evidence: str) -> None:
        super().__init__(f"{reason}: {evidence}")
        self.reason = reason
        self.evidence = evidence


def check_voucher(bearers: Bearers, voucher: nodelink_pb2.KeyVoucher, message: bytes) -> Bearer:
    """Whose certificate vouches for a key, good now. `message` is what its key must have signed.

    Raises `VoucherRefused`.
    """
    if not voucher.certificate:
        raise VoucherRefused(
            "VOUCHER_MISSING",
            "no certificate of the node vouches for the agent's key, and this controller demands one: give the agent "
            "the node's certificate (--tls), or update it",
        )
    try:
        certificate = parse_der(voucher.certificate)
        bearer = bearers.of_certificate(to_pem([certificate]))
    except CertificateRefused as error:
        raise VoucherRefused(error.reason.value, str(error)) from error
    except BearerRefused as error:
        raise VoucherRefused(error.reason, str(error)) from error
    key = certificate.public_key()
    signature = voucher.signature
    if len(signature) > MAX_SIGNATURE_BYTES or not is_signed_by_bearer(key, message, signature):
        raise VoucherRefused(
            "VOUCHER_FORGED",
            f"the certificate of {bearer.identity.principal} did not vouch for this key in this greeting",
        )
    return bearer
