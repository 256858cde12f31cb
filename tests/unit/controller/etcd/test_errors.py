"""What a caller may conclude from each way in which a call can fail."""

from __future__ import annotations

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata

from controller.etcd.errors import (
    AccessRefused,
    AnswerMissing,
    Compacted,
    EtcdError,
    EtcdRefused,
    NotProposed,
    ReplyTooLarge,
    TokenStale,
    translate,
)


@pytest.mark.parametrize(
    ("code", "details", "meaning"),
    [
        (StatusCode.UNAVAILABLE, "Connection reset by peer", AnswerMissing),
        (StatusCode.UNAVAILABLE, "etcdserver: leader changed", AnswerMissing),
        (StatusCode.UNAVAILABLE, "etcdserver: request timed out", AnswerMissing),
        (StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", AnswerMissing),
        (StatusCode.UNKNOWN, "raft: stopped", AnswerMissing),
        (StatusCode.INTERNAL, "", AnswerMissing),
        (StatusCode.CANCELLED, "", AnswerMissing),
        (StatusCode.UNAVAILABLE, "etcdserver: no leader", NotProposed),
        (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests", NotProposed),
        (StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token", TokenStale),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: user name is empty", TokenStale),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", TokenStale),
        (StatusCode.PERMISSION_DENIED, "etcdserver: permission denied", AccessRefused),
        (
            StatusCode.OUT_OF_RANGE,
            "etcdserver: mvcc: required revision has been compacted",
            Compacted,
        ),
        (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", EtcdRefused),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large", EtcdRefused),
        (
            StatusCode.RESOURCE_EXHAUSTED,
            "CLIENT: Received message larger than max (9 vs. 4)",
            ReplyTooLarge,
        ),
    ],
)
def test_a_status_is_read_for_what_it_allows_to_conclude(
    code: StatusCode, details: str, meaning: type[EtcdError]
) -> None:
    failure = translate(AioRpcError(code, Metadata(), Metadata(), details))
    assert type(failure) is meaning
