"""The deliverer: what it records, sends and waits for."""

from __future__ import annotations

from dataclasses import replace

from controller.command.deliverer import (
    MAX_IN_FLIGHT_A_NODE,
    RESEND_AFTER_RELINK_MS,
    AcknowledgeAnswer,
    Answered,
    CancelSeen,
    CommandSeen,
    Deliverer,
    Effect,
    LinkClosed,
    LinkOpened,
    Record,
    Recorded,
    SendCancel,
    SendCommand,
)
from controller.command.delivery import Answer, Delivery, DeliveryState, Semantics, Target
from controller.command.messages import CommandForNodes
from souverix.command.v1 import command_pb2

S = DeliveryState
NOW_MS = 1_700_000_000_000
EXPIRE_MS = NOW_MS + 60_000
TOKEN = 11


def deliverer(rewound_ms: int | None = None) -> Deliverer:
    return Deliverer(TOKEN, rewound_ms, lambda: 0.0)


def command(
    semantics: Semantics = Semantics.AT_LEAST_ONCE,
    command_id: str = "c1",
    nodes: tuple[str, ...] = ("n1",),
) -> CommandForNodes:
    action = command_pb2.Action(ping=command_pb2.Ping())
    return CommandForNodes("zone", command_id, action, semantics, nodes, EXPIRE_MS, NOW_MS - 10)


def seen(given: CommandForNodes, *, cancel: bool = False, **recorded: Recorded) -> CommandSeen:
    return CommandSeen(given, recorded, cancel)


def states(effects: list[Effect]) -> list[tuple[str, DeliveryState, str]]:
    return [
        (e.delivery.target.node, e.delivery.state, e.delivery.reason)
        for e in effects
        if isinstance(e, Record)
    ]


def sent(effects: list[Effect]) -> list[tuple[str, str, int]]:
    return [
        (e.target.node, e.target.command_id, e.attempt)
        for e in effects
        if isinstance(e, SendCommand)
    ]


def dispatched(*, mine: bool, semantics: Semantics) -> Recorded:
    delivery = Delivery(
        Target("zone", "c1", "n1"), S.DISPATCHED, "", 1, NOW_MS - 5, NOW_MS - 5, None, False, TOKEN
    )
    return Recorded(delivery, mine, True)


def answered(state: DeliveryState, recorded: Delivery | None = None) -> Answered:
    return Answered(Target("zone", "c1", "n1"), Answer(state), recorded)


def test_a_command_for_a_linked_node_is_recorded_and_then_sent() -> None:
    core = deliverer()
    assert core.step(LinkOpened("n1", "zone"), NOW_MS) == []
    effects = core.step(seen(command()), NOW_MS)
    assert [type(e) for e in effects] == [Record, SendCommand]
    assert states(effects) == [("n1", S.DISPATCHED, "")]
    assert sent(effects) == [("n1", "c1", 1)]


def test_a_command_for_a_node_that_is_away_waits_and_says_so() -> None:
    core = deliverer()
    effects = core.step(seen(command()), NOW_MS)
    assert states(effects) == [("n1", S.PENDING, "NODE_NOT_LINKED")]
    assert sent(effects) == []
    assert sent(core.step(LinkOpened("n1", "zone"), NOW_MS + 1)) == [("n1", "c1", 1)]


def test_at_most_once_is_never_sent_twice_whatever_happens_to_the_link() -> None:
    core = deliverer()
    core.step(LinkOpened("n1", "zone"), NOW_MS)
    assert len(sent(core.step(seen(command(Semantics.AT_MOST_ONCE)), NOW_MS))) == 1
    effects: list[Effect] = []
    for at_ms in range(NOW_MS, EXPIRE_MS, 5_000):
        effects += core.step(LinkClosed("n1"), at_ms)
        effects += core.step(LinkOpened("n1", "zone"), at_ms)
        effects += core.tick(at_ms)
    assert effects == []
    assert states(core.tick(EXPIRE_MS)) == [("n1", S.EXPIRED, "NO_ANSWER")]


def test_at_least_once_is_sent_again_until_answered_with_growing_pauses() -> None:
    core = deliverer()
    core.step(LinkOpened("n1", "zone"), NOW_MS)
    core.step(seen(command()), NOW_MS)
    times, attempts = [], []
    for at_ms in range(NOW_MS, EXPIRE_MS, 100):
        for _, _, attempt in sent(core.tick(at_ms)):
            times.append(at_ms)
            attempts.append(attempt)
    pauses = [b - a for a, b in zip([NOW_MS, *times], times, strict=False)]
    assert attempts == list(range(2, len(times) + 2))
    assert len(times) >= 3
    assert pauses == sorted(pauses)
    assert states(core.step(answered(S.SUCCEEDED), EXPIRE_MS - 1)) == [("n1", S.SUCCEEDED, "")]
    assert core.tick(EXPIRE_MS + 1) == []
    assert core.open_count() == 0


def test_at_least_once_is_sent_again_over_a_new_link() -> None:
    core = deliverer()
    core.step(LinkOpened("n1", "zone"), NOW_MS)
    core.step(seen(command()), NOW_MS)
    core.step(LinkClosed("n1"), NOW_MS + 10)
    assert sent(core.step(LinkOpened("n1", "zone"), NOW_MS + 20)) == []
    assert sent(core.tick(NOW_MS + RESEND_AFTER_RELINK_MS)) == [("n1", "c1", 2)]


def test_an_unconfirmed_at_most_once_dispatch_of_an_earlier_master_is_indeterminate() -> None:
    core = deliverer()
    once = Semantics.AT_MOST_ONCE
    effects = core.step(seen(command(once), n1=dispatched(mine=False, semantics=once)), NOW_MS)
    assert states(effects) == [("n1", S.INDETERMINATE, "MASTER_CHANGED")]
    assert core.step(LinkOpened("n1", "zone"), NOW_MS) == []


def test_ones_own_at_most_once_dispatch_stands_when_facts_are_read_anew() -> None:
    core = deliverer()
    once = Semantics.AT_MOST_ONCE
    core.step(LinkOpened("n1", "zone"), NOW_MS)
    assert core.step(seen(command(once), n1=dispatched(mine=True, semantics=once)), NOW_MS) == []
    assert core.open_count() == 1


def test_an_at_least_once_dispatch_of_an_earlier_master_is_sent_again() -> None:
    core = deliverer()
    more = Semantics.AT_LEAST_ONCE
    assert core.step(seen(command(more), n1=dispatched(mine=False, semantics=more)), NOW_MS) == []
    core.step(LinkOpened("n1", "zone"), NOW_MS)
    effects = core.tick(NOW_MS + RESEND_AFTER_RELINK_MS)
    assert sent(effects) == [("n1", "c1", 2)]
    assert [e.delivery.fencing_token for e in effects if isinstance(e, Record)] == [TOKEN]


def test_after_a_rewind_an_older_at_most_once_command_is_indeterminate_and_never_sent() -> None:
    core = deliverer(rewound_ms=NOW_MS)
    core.step(LinkOpened("n1", "zone"), NOW_MS)
    effects = core.step(seen(command(Semantics.AT_MOST_ONCE)), NOW_MS)
    assert states(effects) == [("n1", S.INDETERMINATE, "LOG_REWOUND")]
    assert sent(effects) == []


def test_after_a_rewind_what_this_incarnation_recorded_as_waiting_is_sent() -> None:
    core = deliverer(rewound_ms=NOW_MS)
    core.step(LinkOpened("n1", "zone"), NOW_MS)
    waiting = Recorded(Delivery(Target("zone", "c1", "n1"), update_ms=NOW_MS), False, True)
    assert len(sent(core.step(seen(command(Semantics.AT_MOST_ONCE), n1=waiting), NOW_MS))) == 1


def test_after_a_rewind_at_least_once_and_newer_commands_are_sent() -> None:
    core = deliverer(rewound_ms=NOW_MS)
    core.step(LinkOpened("n1", "zone"), NOW_MS)
    assert len(sent(core.step(seen(command()), NOW_MS))) == 1
    newer = replace(command(Semantics.AT_MOST_ONCE, "c2"), stamp_ms=NOW_MS)
    assert len(sent(core.step(seen(newer), NOW_MS))) == 1


def test_a_command_expires_where_it_waits() -> None:
    core = deliverer()
    core.step(seen(command()), NOW_MS)
    assert core.next_due_ms() == EXPIRE_MS
    assert states(core.tick(EXPIRE_MS)) == [("n1", S.EXPIRED, "NOT_SENT")]
    assert core.step(LinkOpened("n1", "zone"), EXPIRE_MS) == []


def test_an_expired_command_is_not_sent_even_when_the_tick_comes_late() -> None:
    core = deliverer()
    core.step(seen(command()), NOW_MS)
    assert core.step(LinkOpened("n1", "zone"), EXPIRE_MS) == []
    assert states(deliverer().step(seen(command()), EXPIRE_MS)) == [("n1", S.EXPIRED, "NOT_SENT")]


def test_a_cancel_takes_effect_before_dispatch_and_is_a_wish_after_it() -> None:
    core = deliverer()
    core.step(LinkOpened("n1", "zone"), NOW_MS)
    core.step(seen(command(nodes=("n1", "n2"))), NOW_MS)
    effects = core.step(CancelSeen("zone", "c1"), NOW_MS)
    assert states(effects) == [("n2", S.CANCELLED, "CANCELLED_BEFORE_DISPATCH")]
    assert SendCancel(Target("zone", "c1", "n1")) in effects
    assert sent(core.tick(EXPIRE_MS - 1)) == []
    assert states(core.step(answered(S.SUCCEEDED), NOW_MS)) == [("n1", S.SUCCEEDED, "")]


def test_a_cancel_is_asked_again_over_a_new_link_and_the_command_is_not_sent_again() -> None:
    core = deliverer()
    core.step(LinkOpened("n1", "zone"), NOW_MS)
    core.step(seen(command()), NOW_MS)
    core.step(LinkClosed("n1"), NOW_MS)
    assert core.step(CancelSeen("zone", "c1"), NOW_MS) == []
    assert core.step(LinkOpened("n1", "zone"), NOW_MS) == [SendCancel(Target("zone", "c1", "n1"))]
    assert core.tick(EXPIRE_MS - 1) == []


def test_a_cancel_that_arrived_before_its_command_stops_it() -> None:
    core = deliverer()
    core.step(LinkOpened("n1", "zone"), NOW_MS)
    effects = core.step(seen(command(), cancel=True), NOW_MS)
    assert states(effects) == [("n1", S.CANCELLED, "CANCELLED_BEFORE_DISPATCH")]
    assert sent(effects) == []


def test_an_answer_is_acknowledged_after_its_record() -> None:
    core = deliverer()
    core.step(LinkOpened("n1", "zone"), NOW_MS)
    core.step(seen(command()), NOW_MS)
    effects = core.step(answered(S.FAILED), NOW_MS)
    assert [type(e) for e in effects] == [Record, AcknowledgeAnswer]


def test_a_late_answer_is_recorded_once_and_acknowledged_always() -> None:
    core = deliverer()
    expired = Delivery(Target("zone", "c1", "n1"), S.EXPIRED, "NO_ANSWER", 1, 1, 2)
    effects = core.step(answered(S.SUCCEEDED, expired), NOW_MS)
    assert states(effects) == [("n1", S.EXPIRED, "NO_ANSWER_THEN_SUCCEEDED")]
    assert isinstance(effects[0], Record)
    again = core.step(answered(S.SUCCEEDED, effects[0].delivery), NOW_MS)
    assert [type(e) for e in again] == [AcknowledgeAnswer]


def test_an_answer_that_comes_with_the_expiry_does_not_change_what_was_just_decided() -> None:
    core = deliverer()
    core.step(LinkOpened("n1", "zone"), NOW_MS)
    core.step(seen(command()), NOW_MS)
    core.committed()
    stale = dispatched(mine=True, semantics=Semantics.AT_LEAST_ONCE).delivery
    effects = core.tick(EXPIRE_MS)
    effects += core.step(answered(S.SUCCEEDED, stale), EXPIRE_MS)
    effects += core.step(answered(S.FAILED, stale), EXPIRE_MS)
    assert states(effects) == [
        ("n1", S.EXPIRED, "NO_ANSWER"),
        ("n1", S.EXPIRED, "NO_ANSWER_THEN_SUCCEEDED"),
    ]


def test_an_answer_to_a_command_not_known_here_is_not_acknowledged() -> None:
    assert deliverer().step(answered(S.SUCCEEDED), NOW_MS) == []


def test_an_answer_in_a_state_that_is_none_changes_nothing() -> None:
    core = deliverer()
    core.step(LinkOpened("n1", "zone"), NOW_MS)
    core.step(seen(command()), NOW_MS)
    assert core.step(answered(S.INDETERMINATE), NOW_MS) == []
    assert core.open_count() == 1


def test_a_node_gets_no_more_at_a_time_than_its_window_and_the_rest_in_order() -> None:
    core = deliverer()
    core.step(LinkOpened("n1", "zone"), NOW_MS)
    ids = [f"c{i}" for i in range(1, MAX_IN_FLIGHT_A_NODE + 3)]
    effects = [e for i in ids for e in core.step(seen(command(command_id=i)), NOW_MS)]
    assert [c for _, c, _ in sent(effects)] == ids[:MAX_IN_FLIGHT_A_NODE]
    assert states(effects)[-1] == ("n1", S.PENDING, "WAITS_FOR_EARLIER_COMMANDS")
    assert [c for _, c, _ in sent(core.step(answered(S.SUCCEEDED), NOW_MS))] == [ids[-2]]


def test_a_node_linked_as_one_of_another_domain_gets_no_command_of_this_one() -> None:
    core = deliverer()
    core.step(LinkOpened("n1", "elsewhere"), NOW_MS)
    assert states(core.step(seen(command()), NOW_MS)) == [("n1", S.PENDING, "NODE_NOT_LINKED")]


def test_a_command_seen_again_is_not_sent_again() -> None:
    core = deliverer()
    core.step(LinkOpened("n1", "zone"), NOW_MS)
    core.step(seen(command()), NOW_MS)
    assert core.step(seen(command()), NOW_MS) == []


def test_a_finished_delivery_is_not_opened_again() -> None:
    core = deliverer()
    core.step(LinkOpened("n1", "zone"), NOW_MS)
    done = Recorded(Delivery(Target("zone", "c1", "n1"), S.SUCCEEDED), False, True)
    assert core.step(seen(command(), n1=done), NOW_MS) == []
    assert core.open_count() == 0


def test_timers_of_finished_deliveries_do_not_pile_up() -> None:
    core = deliverer()
    core.step(LinkOpened("n1", "zone"), NOW_MS)
    for i in range(25_000):
        core.step(seen(command(command_id=f"c{i}")), NOW_MS)
        core.step(Answered(Target("zone", f"c{i}", "n1"), Answer(S.SUCCEEDED), None), NOW_MS)
    assert core.open_count() == 0
    assert len(core._timers) < 15_000


def test_a_node_that_takes_no_command_is_sent_none_linked_or_not() -> None:
    barred = {"n1", "n2"}
    core = Deliverer(TOKEN, None, lambda: 0.0, lambda domain, node, action: node not in barred)
    core.step(LinkOpened("n1", "zone"), NOW_MS)
    effects = core.step(seen(command(nodes=("n1", "n2", "n3"))), NOW_MS)
    assert states(effects) == [
        ("n1", S.REJECTED, "NODE_ISOLATED"),
        ("n2", S.REJECTED, "NODE_ISOLATED"),
        ("n3", S.PENDING, "NODE_NOT_LINKED"),
    ]
    barred.add("n3")
    effects = core.step(LinkOpened("n3", "zone"), NOW_MS)
    assert states(effects) == [("n3", S.REJECTED, "NODE_ISOLATED")]
    assert sent(effects) == []
    assert core.open_count() == 0
