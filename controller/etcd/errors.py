"""What etcd may answer, told apart by what the caller may conclude.

Owns the error types of the etcd client and the one place that reads gRPC statuses. Never guesses:
a write whose fate is not certain is OutcomeUnknown, whatever the status was called.
"""

from __future__ import annotations

from grpc import StatusCode
from grpc.aio import AioRpcError


class EtcdError(Exception):
    """Root of everything the etcd client raises."""


class EtcdUnavailable(EtcdError):
    """No member answered in time. Nothing was written; the call may be made again."""


class OutcomeUnknown(EtcdError):
    """A write was sent and its answer is missing: it may have happened, or may still happen."""


class EtcdRefused(EtcdError):
    """etcd refused the request for good (permission, quota, size, syntax). Nothing was written."""


class AccessRefused(EtcdRefused):
    """The user, password, certificate or role does not permit it."""


class LossyVersion(EtcdRefused):
    """The server's version is known to lose data."""


class ReplyTooLarge(EtcdError):
    """The answer exceeds what we are ready to receive: ask for less."""


class Compacted(EtcdError):
    """The wanted revision is gone. `revision` is the first one left, 0 if not told."""

    def __init__(self, revision: int) -> None:
        super().__init__(
            f"the wanted revision was compacted away; the first one left is {revision}"
        )
        self.revision = revision


class TokenStale(EtcdError):
    """The token was not taken: log in again. Raised to callers only as AccessRefused."""


class NotProposed(EtcdError):
    """The member declined before it proposed anything: safe to try again, elsewhere or later."""


class AnswerMissing(EtcdError):
    """The call ended without an answer: a read may be repeated, a write is OutcomeUnknown."""


# Declined before the request reached the consensus, by the details that etcd sends.
_DECLINED_EARLY = (
    "etcdserver: no leader",
    "etcdserver: too many requests",
)
# The token, or the absence of one, is at fault; all are checked before anything is applied.
_TOKEN_AT_FAULT = (
    "etcdserver: invalid auth token",
    "etcdserver: revision of auth store is old",
    "etcdserver: user name is empty",
)
_REFUSED = frozenset(
    {
        StatusCode.INVALID_ARGUMENT,
        StatusCode.FAILED_PRECONDITION,
        StatusCode.NOT_FOUND,
        StatusCode.ALREADY_EXISTS,
        StatusCode.UNIMPLEMENTED,
        StatusCode.OUT_OF_RANGE,
        StatusCode.RESOURCE_EXHAUSTED,
    }
)


def translate(error: AioRpcError) -> EtcdError:
    """The error that says what the caller may conclude from a failed call."""
    code, details = error.code(), error.details() or ""
    text = f"{details or 'no details'} ({code.name})"
    if details.startswith(_TOKEN_AT_FAULT) or code is StatusCode.UNAUTHENTICATED:
        return TokenStale(text)
    if details.startswith(_DECLINED_EARLY):
        return NotProposed(text)
    if code is StatusCode.PERMISSION_DENIED:
        return AccessRefused(text)
    if code is StatusCode.OUT_OF_RANGE and "compacted" in details:
        return Compacted(0)
    if code is StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        return ReplyTooLarge(text)
    if code in _REFUSED:
        return EtcdRefused(text)
    return AnswerMissing(text)
