"""Times and spans in requests that are none."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from controller.services.times import check_times
from federation.errors import InvalidWrite
from souverix.command.v1 import command_pb2, command_service_pb2
from souverix.fleet.v1 import fleet_service_pb2, lifecycle_pb2
from souverix.policy.v1 import policy_service_pb2


def history(start: Timestamp) -> Message:
    return fleet_service_pb2.ListConnectivityHistoryRequest(start_time=start)


def issue(ttl: Duration) -> Message:
    return command_service_pb2.IssueCommandRequest(expiry=command_pb2.Expiry(ttl=ttl))


@pytest.mark.parametrize(
    "request_",
    [
        policy_service_pb2.GetPolicyRequest(name="x"),
        fleet_service_pb2.ListConnectivityHistoryRequest(),
        history(Timestamp()),
        history(Timestamp(seconds=253_402_300_799, nanos=999_999_999)),
        history(Timestamp(seconds=-62_135_596_800)),
        issue(Duration(seconds=-1, nanos=-1)),
        issue(Duration(seconds=315_576_000_000)),
    ],
)
def test_real_times_pass(request_: Message) -> None:
    check_times(request_)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (history(Timestamp(seconds=253_402_300_800)), "start_time"),
        (history(Timestamp(seconds=-62_135_596_801)), "start_time"),
        (history(Timestamp(nanos=-1)), "start_time"),
        (history(Timestamp(nanos=1_000_000_000)), "start_time"),
        (issue(Duration(seconds=315_576_000_001)), "expiry.ttl"),
        (issue(Duration(nanos=1_000_000_000)), "expiry.ttl"),
        (issue(Duration(seconds=1, nanos=-1)), "expiry.ttl"),
        (
            lifecycle_pb2.Timeline(
                transitions=[
                    lifecycle_pb2.LifecycleState(),
                    lifecycle_pb2.LifecycleState(expire_time=Timestamp(nanos=-1)),
                ]
            ),
            "transitions.expire_time",
        ),
    ],
)
def test_others_are_refused_with_their_place(request_: Message, field: str) -> None:
    with pytest.raises(InvalidWrite, match=f"^{field} is no ") as refused:
        check_times(request_)
    assert refused.value.metadata["field"] == field
