"""What a request to revoke asks for. Owns its checks, and until when a revocation stands; writes nothing.

It stands until what it names has expired by itself: a certificate that is shown says when; leaves of an identity live
at most `MAX_LEAF_LIFE` from when they were issued.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from controller.revocation.targets import subject_of
from federation.errors import InvalidWrite, WrongState
from souverix.trust.v1 import revocation_pb2
from souverix.trust.v1 import revocation_service_pb2 as service
from trust.authority import BACKDATED, MAX_LEAF_LIFE
from trust.certificates import fingerprint, identity_of, parse_der, parse_pem
from trust.errors import CertificateRefused
from trust.identity import Kind
from trust.renewal import MAX_RECOVERY

#: How far a revocation may reach into the future: by as much as clocks may differ. Further, it would revoke
#: certificates that nobody has asked for yet.
MAX_AHEAD_MS: Final = int(BACKDATED.total_seconds() * 1000)

#: What has expired may be recovered for a while, so it is worth revoking until then.
_RECOVERY_MS: Final = int(MAX_RECOVERY.total_seconds() * 1000)


class Asked(NamedTuple):
    """What is to be revoked."""

    certificates: revocation_pb2.RevokedCertificates
    subject: str
    #: When the certificate that is named expires; None: not known, or it is an identity.
    expire_ms: int | None


def read_request(
    request: service.RevokeCertificateRequest, domain: str, parent_of: Callable[[str], str]
) -> Asked:
    """What a request asks for. `parent_of` tells the domain above another, itself for the root's.

    Raises `InvalidWrite`.
    """
    certificates = revocation_pb2.RevokedCertificates()
    expire_ms: int | None = None
    given = request.WhichOneof("target")
    if request.HasField("certificate_expire_time"):
        if given not in ("fingerprint", "serial_number"):
            raise InvalidWrite(
                "certificate_expire_time goes with a fingerprint or a serial_number only",
                field="certificate_expire_time",
            )
        expire_ms = request.certificate_expire_time.ToMilliseconds()
    match given:
        case "certificate":
            certificates.fingerprint, expire_ms = _read(request.certificate, domain, parent_of)
        case "fingerprint":
            certificates.fingerprint = request.fingerprint.lower()
        case "serial_number":
            certificates.serial_number = request.serial_number.lower().lstrip("0")
        case "identity":
            certificates.identity.CopyFrom(request.identity)
    return Asked(certificates, subject_of(certificates), expire_ms)


def spec_of(
    asked: Asked, reason: str, earlier_s: int, now_ms: int
) -> revocation_pb2.RevocationSpec:
    """The fact. `earlier_s` is the time, in seconds, up to which an identity's certificates are revoked already.

    Raises `InvalidWrite`, `WrongState`.
    """
    spec = revocation_pb2.RevocationSpec(reason=reason)
    spec.certificates.CopyFrom(asked.certificates)
    spec.revoke_time.FromMilliseconds(now_ms)
    expire_ms = asked.expire_ms
    if asked.certificates.HasField("identity"):
        identity = spec.certificates.identity
        before_s = max(earlier_s, _whole_seconds(identity, now_ms))
        identity.issued_before.CopyFrom(Timestamp(seconds=before_s))
        expire_ms = int((before_s + MAX_LEAF_LIFE.total_seconds()) * 1000)
    if expire_ms is not None:
        if expire_ms + _RECOVERY_MS <= now_ms:
            raise WrongState(
                f"the certificate has expired more than {MAX_RECOVERY.days} days ago: it admits nobody any more, and "
                "is recovered nowhere"
            )
        spec.expire_time.FromMilliseconds(expire_ms)
    return spec


def _whole_seconds(identity: revocation_pb2.RevokedIdentity, now_ms: int) -> int:
    """Certificates tell whole seconds: what was issued in the present one counts as issued before."""
    if not identity.HasField("issued_before"):
        return -(-now_ms // 1000)
    before_ms = identity.issued_before.ToMilliseconds()
    if before_ms > now_ms + MAX_AHEAD_MS:
        raise InvalidWrite(
            "identity.issued_before lies in the future: certificates that are not issued yet cannot be revoked",
            field="identity.issued_before",
        )
    if before_ms <= 0:
        raise InvalidWrite(
            "identity.issued_before lies before the first certificate",
            field="identity.issued_before",
        )
    return -(-before_ms // 1000)


def _read(data: bytes, domain: str, parent_of: Callable[[str], str]) -> tuple[str, int]:
    """Fingerprint and end of a certificate that the domain's authority issued."""
    try:
        pem = data.lstrip().startswith(b"-----BEGIN")
        certificate = parse_pem(data)[0] if pem else parse_der(data)
        identity = identity_of(certificate)
    except CertificateRefused as error:
        raise InvalidWrite(f"certificate: {error}", field="certificate") from error
    if identity.is_root:
        raise InvalidWrite(
            "this is the root: all trust rests on it, and it is replaced, not revoked",
            field="certificate",
        )
    is_authority = identity.kind is Kind.AUTHORITY
    issuer = parent_of(identity.domain) if is_authority else identity.domain
    if issuer != domain:
        raise InvalidWrite(
            f"the certificate of {identity} was issued by the authority of domain {issuer}, not of {domain}: name that "
            "domain",
            field="domain",
            domain=issuer,
        )
    return fingerprint(certificate), _milliseconds(certificate.not_valid_after_utc)


def _milliseconds(at: datetime) -> int:
    return int((at - datetime.fromtimestamp(0, UTC)).total_seconds() * 1000)
