"""What can go wrong in a run, and the exit code that says so.

Owns the exit codes, the tree of errors (each says who must act) and how a gRPC status is read.
Never prints: main.py does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import cast

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

NOT_MASTER = "NOT_MASTER"
NEXT_STEP_KEY = "next_step"


class ExitCode(IntEnum):
    """What a finished run says to the shell; docs/cli.md lists the same."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    DENIED = 5
    UNAVAILABLE = 6
    TIMEOUT = 7
    NOT_INTACT = 8
    INTERRUPTED = 130


EXIT_CODE_MEANINGS: Mapping[ExitCode, str] = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "failed, or a target of a command did not succeed",
    ExitCode.USAGE: "the input is not valid; nothing was changed",
    ExitCode.NOT_FOUND: "the controller does not know it",
    ExitCode.CONFLICT: "in the way: exists already, other etag, precondition not met",
    ExitCode.DENIED: "not allowed",
    ExitCode.UNAVAILABLE: "no controller answered, or it is overloaded",
    ExitCode.TIMEOUT: "not done in time; a write may still have been carried out",
    ExitCode.NOT_INTACT: "verification found a fault",
    ExitCode.INTERRUPTED: "interrupted",
}

_EXIT_CODES: Mapping[grpc.StatusCode, ExitCode] = {
    grpc.StatusCode.INVALID_ARGUMENT: ExitCode.USAGE,
    grpc.StatusCode.NOT_FOUND: ExitCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS: ExitCode.CONFLICT,
    grpc.StatusCode.ABORTED: ExitCode.CONFLICT,
    grpc.StatusCode.FAILED_PRECONDITION: ExitCode.CONFLICT,
    grpc.StatusCode.PERMISSION_DENIED: ExitCode.DENIED,
    grpc.StatusCode.UNAUTHENTICATED: ExitCode.DENIED,
    grpc.StatusCode.UNAVAILABLE: ExitCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ExitCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: ExitCode.TIMEOUT,
}

# What to do when the controller itself named no next step.
_NEXT_STEPS: Mapping[grpc.StatusCode, str] = {
    grpc.StatusCode.INVALID_ARGUMENT: "correct the input; `--help` shows examples",
    grpc.StatusCode.NOT_FOUND: "list what this controller knows with `souverixctl get …`; what was written"
    " elsewhere may not have arrived here yet",
    grpc.StatusCode.ALREADY_EXISTS: "choose another id, or change what is there with `souverixctl set …`",
    grpc.StatusCode.ABORTED: "read it again for the new etag (`souverixctl get … -o yaml`), then repeat",
    grpc.StatusCode.FAILED_PRECONDITION: "the message says what is in the way; `souverixctl get authority` shows"
    " who is master-of-record",
    grpc.StatusCode.PERMISSION_DENIED: "see who decides there with `souverixctl get authority`;"
    " --principal says who asks",
    grpc.StatusCode.UNAUTHENTICATED: "say who asks with --principal or SOUVERIX_PRINCIPAL",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "repeat later",
    grpc.StatusCode.UNAVAILABLE: "check that a controller listens there; --server or SOUVERIX_SERVER"
    " names others, separated by commas",
    grpc.StatusCode.DEADLINE_EXCEEDED: "repeat with a longer --timeout",
    grpc.StatusCode.UNIMPLEMENTED: "this controller does not offer the method: compare `souverixctl version`"
    " with `souverixctl federation status`",
}
_ASK_THE_LOG = "the controller's log says more"


class CtlError(Exception):
    """Ends the run. `next_step` tells the reader what to do; empty where the message says all."""

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step


class BadInput(CtlError):
    """The caller must change what was given; nothing was sent."""

    exit_code = ExitCode.USAGE


class WaitedTooLong(CtlError):
    """What was waited for did not happen in time; it may happen later."""

    exit_code = ExitCode.TIMEOUT


class NotIntact(CtlError):
    """Something read does not match its digest or its seals: investigate before trusting it."""

    exit_code = ExitCode.NOT_INTACT


class Refused(CtlError):
    """A call ended with a gRPC status other than OK; `next_step` says who must act."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        method: str,
        address: str,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[str] = (),
        retry_after_s: float | None = None,
        next_step: str = "",
    ) -> None:
        facts = dict(metadata or {})
        told = facts.pop(NEXT_STEP_KEY, "")
        super().__init__(
            message or "no message", next_step or told or _NEXT_STEPS.get(code, _ASK_THE_LOG)
        )
        self.code = code
        self.exit_code = _EXIT_CODES.get(code, ExitCode.FAILED)
        self.method = method
        self.address = address
        self.reason = reason
        self.metadata = facts
        self.violations = list(violations)
        self.retry_after_s = retry_after_s

    @property
    def elsewhere(self) -> bool:
        """True when another replica may answer."""
        return self.code is grpc.StatusCode.UNAVAILABLE or self.reason == NOT_MASTER

    @property
    def outcome_unknown(self) -> bool:
        """True when a write may have been carried out all the same."""
        return self.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def read_refusal(error: grpc.RpcError, *, method: str, address: str) -> Refused:
    """The status of a failed call, with its google.rpc details where the server sent any."""
    call = cast(grpc.Call, error)  # what a synchronous channel raises is the call itself
    reason = ""
    metadata: dict[str, str] = {}
    violations: list[str] = []
    retry_after_s: float | None = None
    for detail in _details(call):
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest.FromString(detail.value)
            violations += [f"{each.field}: {each.description}" for each in bad.field_violations]
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
            retry_after_s = delay.seconds + delay.nanos / 1e9
    return Refused(
        call.code(),
        call.details() or "",
        method=method,
        address=address,
        reason=reason,
        metadata=metadata,
        violations=violations,
        retry_after_s=retry_after_s,
    )


def _details(call: grpc.Call) -> Sequence[any_pb2.Any]:
    try:
        status = rpc_status.from_call(call)
    except (ValueError, DecodeError):  # details that contradict the status say nothing we can trust
        return ()
    return () if status is None else tuple(status.details)
