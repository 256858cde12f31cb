from __future__ import annotations

import inspect

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from controller.changes import SlowWatcher
from controller.errors import (
    DEFAULT_RETRY_MS,
    ERROR_DOMAIN,
    ForwardedStatus,
    ServiceError,
    status_of,
)
from controller.journal import JournalClosed, JournalFull, WriteOutcomeUnknown
from controller.log import errors as log_errors
from federation import errors as core

Code = grpc.StatusCode


def code_of(status: status_pb2.Status) -> grpc.StatusCode:
    return next(code for code in Code if code.value[0] == status.code)


def detail(status: status_pb2.Status, kind: type[Message]) -> Message | None:
    for packed in status.details:
        found = kind()
        if packed.Unpack(found):
            return found
    return None


def info_of(status: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    info = detail(status, error_details_pb2.ErrorInfo)
    assert isinstance(info, error_details_pb2.ErrorInfo)
    return info


def retry_ms_of(status: status_pb2.Status) -> int | None:
    retry = detail(status, error_details_pb2.RetryInfo)
    if retry is None:
        return None
    assert isinstance(retry, error_details_pb2.RetryInfo)
    return int(retry.retry_delay.ToMilliseconds())


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (core.InvalidWrite("x"), Code.INVALID_ARGUMENT, "INVALID_WRITE"),
        (core.NotFound("x"), Code.NOT_FOUND, "NOT_FOUND"),
        (core.AlreadyExists("x"), Code.ALREADY_EXISTS, "ALREADY_EXISTS"),
        (core.EtagMismatch("x"), Code.ABORTED, "ETAG_MISMATCH"),
        (core.RequestIdReused("x"), Code.INVALID_ARGUMENT, "REQUEST_ID_REUSED"),
        (core.WrongState("x"), Code.FAILED_PRECONDITION, "FAILED_PRECONDITION"),
        (core.AuthorityError("x"), Code.FAILED_PRECONDITION, "NOT_MASTER_OF_RECORD"),
        (core.OutOfReach("x"), Code.PERMISSION_DENIED, "DOMAIN_OUT_OF_REACH"),
        (core.PeerError("x"), Code.INVALID_ARGUMENT, "PEER_PROTOCOL_ERROR"),
        (core.CorruptLog("x"), Code.INTERNAL, "CORRUPT_LOG"),
        (log_errors.LogCorrupt("x"), Code.INTERNAL, "CORRUPT_LOG"),
        (SlowWatcher("x"), Code.RESOURCE_EXHAUSTED, "SLOW_WATCHER"),
        (log_errors.CommitTooLarge("x"), Code.INVALID_ARGUMENT, "TOO_LARGE"),
    ],
)
def test_error_the_caller_must_act_on_has_its_code_and_no_retry(
    error: Exception, code: grpc.StatusCode, reason: str
) -> None:
    status = status_of(error)
    assert (code_of(status), info_of(status).reason) == (code, reason)
    assert retry_ms_of(status) is None


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (JournalClosed("x"), Code.UNAVAILABLE, "NOT_MASTER"),
        (JournalFull("x"), Code.RESOURCE_EXHAUSTED, "OVERLOADED"),
        (WriteOutcomeUnknown("x"), Code.UNAVAILABLE, "OUTCOME_UNKNOWN"),
        (log_errors.LogUnavailable("x"), Code.UNAVAILABLE, "LOG_UNAVAILABLE"),
    ],
)
def test_error_that_passes_says_when_to_try_again(
    error: Exception, code: grpc.StatusCode, reason: str
) -> None:
    status = status_of(error)
    assert (code_of(status), info_of(status).reason) == (code, reason)
    assert retry_ms_of(status) == DEFAULT_RETRY_MS


def test_every_error_of_the_core_has_a_code_and_a_stable_reason() -> None:
    kinds = [
        kind
        for _, kind in inspect.getmembers(core, inspect.isclass)
        if issubclass(kind, core.FederationError)
    ]
    assert len(kinds) > 10
    for kind in kinds:
        info = info_of(status_of(kind("text", domain="d")))
        assert info.reason == kind.reason
        assert info.reason.isupper()
        assert (info.domain, dict(info.metadata)) == (ERROR_DOMAIN, {"domain": "d"})


def test_service_error_carries_its_own_status() -> None:
    error = ServiceError(Code.OUT_OF_RANGE, "EXPIRED", "list anew", {"token": "t"}, 250)
    status = status_of(error)
    assert (code_of(status), status.message) == (Code.OUT_OF_RANGE, "list anew")
    assert (info_of(status).reason, info_of(status).metadata["token"]) == ("EXPIRED", "t")
    assert retry_ms_of(status) == 250


def test_status_of_another_controller_is_passed_on_as_it_is() -> None:
    made = status_of(core.EtagMismatch("read again", subject="policies/p1"))
    error = ForwardedStatus(made.code, made.message, made.SerializeToString())
    assert status_of(error) == made


def test_status_without_details_is_passed_on_too() -> None:
    status = status_of(ForwardedStatus(Code.UNAVAILABLE.value[0], "gone", b""))
    assert (code_of(status), status.message) == (Code.UNAVAILABLE, "gone")


def test_text_of_an_unknown_error_is_not_told() -> None:
    status = status_of(RuntimeError("password=hunter2"))
    assert code_of(status) is Code.INTERNAL
    assert "hunter2" not in status.message
    assert "RuntimeError" in status.message
