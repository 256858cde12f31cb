"""A command as a reader sees it: its deliveries, its cancel, its etag, within the size of a message."""

from __future__ import annotations

import pytest
from google.protobuf.struct_pb2 import Struct

from controller.command.delivery import Answer, Delivery, DeliveryState, Target
from controller.command.issuing import facts_of
from controller.command.messages import delivery_to_message, subject_of_delivery
from controller.command.view import ANSWER_LEFT_OUT, MAX_ANSWERS_BYTES, view_of
from souverix.command.v1 import command_pb2, command_service_pb2
from tests.federation_fixture import (
    ROOT,
    START_MS,
    MemoryController,
    controller_below,
    root_controller,
)

ZONE = "edge-a1"


@pytest.fixture
def root() -> MemoryController:
    return root_controller()


def issue(controller: MemoryController, **placed: tuple[str, ...]) -> None:
    """Writes a ping as command c1, its targets given by domain ("_" stands for "-")."""
    request = command_service_pb2.IssueCommandRequest(
        action=command_pb2.Action(ping=command_pb2.Ping())
    )
    targets = {domain.replace("_", "-"): nodes for domain, nodes in placed.items()}
    for domain, fact in facts_of(request, "c1", targets, "me", START_MS).items():
        controller.submit(
            lambda p, d=domain, f=fact: p.write(d, "commands/c1", "command", f, principal="user:a")  # type: ignore[misc]
        )


def cancel(controller: MemoryController, domain: str, reason: str, principal: str) -> None:
    asked = command_pb2.CancelRequest(command_id="c1", reason=reason)
    controller.submit(
        lambda p: p.write(domain, "commands/c1", "command_cancel", asked, principal=principal)
    )


def seen(controller: MemoryController) -> command_pb2.Command:
    view = view_of(controller.state, "c1")
    assert view is not None
    return view


def told_of_cancel(view: command_pb2.Command) -> tuple[bool, str, str, int]:
    asked_ms = view.cancel_time.ToMilliseconds()
    return view.cancel_requested, view.cancel_reason, view.cancel_principal, asked_ms


def test_a_command_nobody_knows_has_no_view(root: MemoryController) -> None:
    assert view_of(root.state, "unknown") is None


def test_a_cancel_is_shown_with_its_reason_who_asked_and_when(root: MemoryController) -> None:
    issue(root, **{ROOT: ("n0",)})
    assert not seen(root).cancel_requested
    assert not seen(root).HasField("cancel_time")
    root.now_ms += 5_000
    cancel(root, ROOT, "wrong zone", "user:b")
    assert told_of_cancel(seen(root)) == (True, "wrong zone", "user:b", START_MS + 5_000)
    assert seen(root).principal == "user:a"


def test_of_cancels_in_several_domains_the_earliest_known_is_shown(root: MemoryController) -> None:
    zone = controller_below(root, ZONE + "-control", ZONE)
    issue(root, **{ROOT: ("n0",), "edge_a1": ("n1",)})
    zone.receive_from(root)
    zone.now_ms = START_MS + 1_000
    cancel(zone, ZONE, "the zone is being rewired", "user:zone")
    root.now_ms = START_MS + 2_000
    cancel(root, ROOT, "", "user:root")
    assert told_of_cancel(seen(root)) == (True, "", "user:root", START_MS + 2_000)
    root.receive_from(zone)
    told = (True, "the zone is being rewired", "user:zone", START_MS + 1_000)
    assert told_of_cancel(seen(root)) == told


def test_a_view_leaves_out_answers_beyond_the_size_of_a_message(root: MemoryController) -> None:
    output = Struct()
    output.update({"x": "y" * 60_000})
    ids = tuple(f"n{i}" for i in range(MAX_ANSWERS_BYTES // 60_000 + 2))
    issue(root, **{ROOT: ids})
    for node in ids:
        target = Target(ROOT, "c1", node)
        answer = Answer(DeliveryState.SUCCEEDED, output)
        done = delivery_to_message(Delivery(target, DeliveryState.SUCCEEDED, answer=answer))
        subject = subject_of_delivery(target)
        root.submit(lambda p, s=subject, d=done: p.write(ROOT, s, "delivery", d, principal="c"))  # type: ignore[misc]
    view = seen(root)
    assert view.done
    assert view.ByteSize() < 2 * MAX_ANSWERS_BYTES
    assert view.deliveries[0].output == output
    assert (view.deliveries[-1].HasField("output"), view.deliveries[-1].reason) == (
        False,
        ANSWER_LEFT_OUT,
    )


def test_a_views_etag_changes_with_every_step(root: MemoryController) -> None:
    issue(root, **{ROOT: ("n0",)})
    etags = {seen(root).etag}
    cancel(root, ROOT, "", "user:a")
    etags.add(seen(root).etag)
    sent = delivery_to_message(Delivery(Target(ROOT, "c1", "n0"), DeliveryState.DISPATCHED))
    root.submit(lambda p: p.write(ROOT, "commands/c1/n0", "delivery", sent, principal="c"))
    etags.add(seen(root).etag)
    assert len(etags) == 3
