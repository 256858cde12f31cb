"""The attention queue: what is asked, how items are shown, and how marks are sent."""

from __future__ import annotations

import json
import time

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from souverix.attention.v1 import attention_pb2 as attention
from souverix.attention.v1 import attention_service_pb2 as service
from souverix.receipt.v1.receipt_pb2 import WriteReceipt
from souverixctl.errors import ExitCode
from tests.unit.souverixctl.conftest import Serve
from tests.unit.souverixctl.scripted import Fail, ScriptedController, ctl

ID = "0123456789abcdef"
RECEIPT = WriteReceipt(domain="a1", controller="a1-control", durable_at=["a1"])


def item(**fields: object) -> attention.AttentionItem:
    shown = attention.AttentionItem(
        name=f"attention/{ID}",
        id=ID,
        kind=attention.ATTENTION_KIND_NODE_DRIFT,
        domain="a1",
        subject="nodes/n1",
        severity=attention.ATTENTION_SEVERITY_HIGH,
        score=62.5,
        cause="differs from what is desired in target_version; drift score 5",
        since=Timestamp(seconds=int(time.time()) - 7205),
        next_step="souverixctl drift n1",
        node_count=1,
        state=attention.ATTENTION_STATE_OPEN,
        etag="e1",
    )
    shown.MergeFrom(attention.AttentionItem(**fields))  # type: ignore[arg-type]
    return shown


async def test_items_are_listed_with_cause_age_and_next_step(
    serve: Serve, controller: ScriptedController
) -> None:
    reply = service.ListItemsResponse(items=[item()], complete=True, left_out_count=7)
    controller.on(service.ListItemsRequest, reply)
    address = await serve(controller)
    ran = await ctl("attention", "--server", address)
    assert ran.exit_code == ExitCode.OK, ran.err
    line = ran.out.splitlines()[1]
    assert line.split()[:9] == [
        "62.5", "HIGH", "node-drift", "a1", "nodes/n1", "1", "2h", "OPEN", ID,
    ]  # fmt: skip
    assert line.endswith("souverixctl drift n1")
    assert "drift score 5" in line
    assert "7 items of lower score" in ran.err
    (asked,) = controller.requests(service.ListItemsRequest)
    assert (asked.domain, asked.include_subtree, asked.page_size) == ("", False, 20)


async def test_what_is_asked_is_sent_and_programs_get_the_reply(
    serve: Serve, controller: ScriptedController
) -> None:
    controller.on(service.ListItemsRequest, service.ListItemsResponse(items=[item()]))
    address = await serve(controller)
    ran = await ctl(
        "attention", "list", "--domain", "region-a", "--subtree", "--kind", "node-drift",
        "--kind", "conflict-open", "--state", "snoozed", "--min-score", "5", "-o", "json",
        "--server", address,
    )  # fmt: skip
    assert json.loads(ran.out)["items"][0]["nextStep"] == "souverixctl drift n1"
    (asked,) = controller.requests(service.ListItemsRequest)
    assert (asked.domain, asked.include_subtree, asked.min_score) == ("region-a", True, 5)
    assert list(asked.kinds) == [
        attention.ATTENTION_KIND_NODE_DRIFT,
        attention.ATTENTION_KIND_CONFLICT_OPEN,
    ]
    assert list(asked.states) == [attention.ATTENTION_STATE_SNOOZED]


async def test_marks_and_doubts_are_shown(serve: Serve, controller: ScriptedController) -> None:
    marked = item(
        mark_principal="user:alice",
        unknown_since=Timestamp(seconds=1),
    )
    marked.state = attention.ATTENTION_STATE_ACKNOWLEDGED
    controller.on(service.ListItemsRequest, service.ListItemsResponse(items=[marked]))
    ran = await ctl("attention", "--server", await serve(controller))
    assert "ACKNOWLEDGED by user:alice (as last known)" in ran.out
    assert "not everything is looked at yet" in ran.err


async def test_an_item_is_shown_in_full(serve: Serve, controller: ScriptedController) -> None:
    shown = item(score_parts=attention.ScoreParts(kind=10, severity=5, age=1.25))
    controller.on(service.GetItemRequest, service.GetItemResponse(item=shown))
    ran = await ctl("attention", "show", ID, "--server", await serve(controller))
    assert ran.exit_code == ExitCode.OK, ran.err
    assert "1.25" in ran.out
    assert controller.requests(service.GetItemRequest)[0].name == f"attention/{ID}"


async def test_a_watch_shows_items_as_they_come_and_end(
    serve: Serve, controller: ScriptedController
) -> None:
    bookmark = service.AttentionBookmark(resume_token="t", initial_state_complete=True)
    controller.on(
        service.WatchItemsRequest,
        [
            service.WatchItemsResponse(existing=item()),
            service.WatchItemsResponse(bookmark=bookmark),
            service.WatchItemsResponse(
                removed=service.ItemRemoval(name=f"attention/{ID}", ended=True)
            ),
            service.WatchItemsResponse(removed=service.ItemRemoval(name="attention/other")),
            Fail(grpc.StatusCode.PERMISSION_DENIED, "enough"),
        ],
    )
    ran = await ctl("attention", "--watch", "--domain", "a1", "--server", await serve(controller))
    lines = ran.out.splitlines()
    assert lines[0].startswith("existing")
    assert "next: souverixctl drift n1" in lines[0]
    assert lines[1].split() == ["removed", ID, "ended"]
    assert lines[2].split() == ["removed", "other", "not", "listed", "any", "more"]
    assert "changes follow" in ran.err
    assert controller.requests(service.WatchItemsRequest)[0].domain == "a1"


async def test_marks_are_sent(serve: Serve, controller: ScriptedController) -> None:
    snoozed = item(mark=attention.AttentionMark(snooze_until=Timestamp(seconds=1_800_000_000)))
    controller.on(
        service.AcknowledgeItemRequest,
        service.AcknowledgeItemResponse(item=item(), receipt=RECEIPT),
    )
    controller.on(
        service.SnoozeItemRequest, service.SnoozeItemResponse(item=snoozed, receipt=RECEIPT)
    )
    controller.on(
        service.ReopenItemRequest, service.ReopenItemResponse(item=item(), receipt=RECEIPT)
    )
    address = await serve(controller)
    ran = await ctl(
        "attention", "ack", ID, "--reason", "on it", "--etag", "e1", "--server", address
    )
    assert ran.out.startswith("node-drift of nodes/n1 acknowledged")
    (acknowledged,) = controller.requests(service.AcknowledgeItemRequest)
    assert (acknowledged.name, acknowledged.reason) == (f"attention/{ID}", "on it")
    assert (acknowledged.etag, bool(acknowledged.request_id)) == ("e1", True)
    ran = await ctl(
        "attention", "snooze", ID, "--for", "2h", "--reason", "later", "--server", address
    )
    assert "snoozed until 2027-01-15T08:00:00Z" in ran.out
    assert controller.requests(service.SnoozeItemRequest)[0].snooze.seconds == 7200
    ran = await ctl("attention", "reopen", f"attention/{ID}", "--server", address)
    assert "reopened" in ran.out
    assert controller.requests(service.ReopenItemRequest)[0].name == f"attention/{ID}"


@pytest.mark.parametrize(
    "arguments",
    [
        ("ack", ID),
        ("snooze", ID, "--for", "0s", "--reason", "r"),
        ("snooze", ID, "--for", "soon", "--reason", "r"),
        ("list", "--kind", "weather"),
        ("nothing",),
    ],
)
async def test_what_cannot_be_meant_is_not_sent(arguments: tuple[str, ...]) -> None:
    ran = await ctl("attention", *arguments, "--server", "127.0.0.1:1")
    assert ran.exit_code == ExitCode.USAGE
