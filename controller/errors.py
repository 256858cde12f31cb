"""Maps errors to gRPC status: the only module that does. Every status carries `ErrorInfo` with reason, domain and
metadata; retryable ones carry `RetryInfo` (AIP-193).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from airgap.errors import BundleRefused
from controller.access.errors import AccessDenied
from controller.changes import SlowWatcher
from controller.enrolment.errors import EnrolmentRefused, RequestRefused
from controller.journal import JournalClosed, JournalFull, WriteOutcomeUnknown
from controller.log.errors import CommitTooLarge, LogCorrupt, LogError
from federation import errors as core

#: `ErrorInfo.domain` of every error this project makes.
ERROR_DOMAIN = "souverix.controller"

#: Wait before a retry where nothing more is known: one lease renewal, or a burst of writes, will have passed.
DEFAULT_RETRY_MS = 500

#: What a status may say, and a detail of it. Both may quote what the caller sent, and both travel in trailers, of which
#: gRPC takes 8 KiB in all, and the message twice.
MAX_MESSAGE_CHARACTERS = 1024
MAX_METADATA_CHARACTERS = 256

#: Reason of a write that may or may not stand.
OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"

Code = grpc.StatusCode


class ServiceError(Exception):
    """An error of a service itself, with its status."""

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        metadata: Mapping[str, str] | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.retry_after_ms = retry_after_ms


class ForwardedStatus(Exception):
    """The status another controller gave to a forwarded write; passed on as it is."""

    def __init__(self, code: int, message: str, details: bytes) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details


_CORE: tuple[tuple[type[core.FederationError], grpc.StatusCode], ...] = (
    (AccessDenied, Code.PERMISSION_DENIED),
    (RequestRefused, Code.INVALID_ARGUMENT),
    (EnrolmentRefused, Code.PERMISSION_DENIED),
    (core.InvalidWrite, Code.INVALID_ARGUMENT),
    (core.NotFound, Code.NOT_FOUND),
    (core.AlreadyExists, Code.ALREADY_EXISTS),
    (core.EtagMismatch, Code.ABORTED),
    (core.RequestIdReused, Code.INVALID_ARGUMENT),
    (core.WrongState, Code.FAILED_PRECONDITION),
    (core.OutOfReach, Code.PERMISSION_DENIED),
    (core.AuthorityError, Code.FAILED_PRECONDITION),
    (core.PeerError, Code.INVALID_ARGUMENT),
    (core.FederationError, Code.INTERNAL),
)


def status_of(error: BaseException) -> status_pb2.Status:
    """The status of an error. Unknown errors become INTERNAL without their text: it may hold what is not the
    caller's to see.
    """
    if isinstance(error, ForwardedStatus):
        return _forwarded(error)
    if isinstance(error, ServiceError):
        return _status(error.code, error.reason, str(error), error.metadata, error.retry_after_ms)
    if isinstance(error, core.FederationError):
        code = next(code for kind, code in _CORE if isinstance(error, kind))
        return _status(code, error.reason, str(error), error.metadata)
    if isinstance(error, JournalClosed):
        return _status(Code.UNAVAILABLE, "NOT_MASTER", str(error), {}, DEFAULT_RETRY_MS)
    if isinstance(error, JournalFull):
        return _status(Code.RESOURCE_EXHAUSTED, "OVERLOADED", str(error), {}, DEFAULT_RETRY_MS)
    if isinstance(error, WriteOutcomeUnknown):
        return _status(Code.UNAVAILABLE, OUTCOME_UNKNOWN, str(error), {}, DEFAULT_RETRY_MS)
    if isinstance(error, BundleRefused):
        return _status(
            Code.INVALID_ARGUMENT, error.reason.value, f"the bundle is refused: {error}", {}
        )
    if isinstance(error, SlowWatcher):
        return _status(Code.RESOURCE_EXHAUSTED, "SLOW_WATCHER", str(error), {})
    if isinstance(error, CommitTooLarge):
        return _status(Code.INVALID_ARGUMENT, "TOO_LARGE", str(error), {})
    if isinstance(error, LogCorrupt):
        return _status(Code.INTERNAL, "CORRUPT_LOG", str(error), {})
    if isinstance(error, LogError):
        message = f"the event log cannot be written now ({error}); nothing was changed, retry later"
        return _status(Code.UNAVAILABLE, "LOG_UNAVAILABLE", message, {}, DEFAULT_RETRY_MS)
    message = f"the controller failed on this request ({type(error).__name__}); its log says more"
    return _status(Code.INTERNAL, "INTERNAL", message, {})


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: BaseException) -> None:
    """Ends a call with the status of an error."""
    await context.abort_with_status(rpc_status.to_status(status_of(error)))


def _status(
    code: grpc.StatusCode,
    reason: str,
    message: str,
    metadata: Mapping[str, str],
    retry_after_ms: int | None = None,
) -> status_pb2.Status:
    message = message[:MAX_MESSAGE_CHARACTERS]
    metadata = {key: value[:MAX_METADATA_CHARACTERS] for key, value in metadata.items()}
    details = [
        _pack(error_details_pb2.ErrorInfo(reason=reason, domain=ERROR_DOMAIN, metadata=metadata))
    ]
    if retry_after_ms is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(retry_after_ms)
        details.append(_pack(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status_pb2.Status(code=code.value[0], message=message, details=details)


def _forwarded(error: ForwardedStatus) -> status_pb2.Status:
    if error.details:
        return status_pb2.Status.FromString(error.details)
    return status_pb2.Status(code=error.code, message=error.message)


def _pack(message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
