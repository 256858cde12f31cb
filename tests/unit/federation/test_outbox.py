from __future__ import annotations

from collections.abc import Callable

import pytest

from federation.codec import stream_from_message
from federation.identifiers import Key, Lane, StreamId
from federation.outbox import (
    FAR_COMMITS,
    LEAD_BYTES,
    MAX_JOINED_BYTES,
    MAX_RUNS_A_FRAME,
    PART_BYTES,
    LogReading,
    Outbox,
)
from federation.proposal import Proposal
from souverix.event.v1 import event_pb2
from souverix.fleet.v1 import node_pb2
from souverix.sync.v1 import sync_pb2
from tests.federation_fixture import MemoryController, controller_below, root_controller


@pytest.fixture
def region() -> MemoryController:
    return controller_below(root_controller(), "region-a-control", "region-a")


def control_of(controller: MemoryController) -> StreamId:
    return StreamId("region-a", controller.identity.origin, Lane.CONTROL)


def state_of(controller: MemoryController) -> StreamId:
    return control_of(controller)._replace(lane=Lane.STATE)


def own_only(stream: StreamId) -> bool:
    return stream.origin.controller == "region-a-control"


#: More than any of these tests puts by.
PLENTY = 64 * 1024 * 1024


def new_outbox(
    controller: MemoryController,
    wanted: Callable[[StreamId], bool] = own_only,
    batch_events: int = 0,
    max_put_by_bytes: int = PLENTY,
) -> Outbox:
    return Outbox(controller.state, wanted, batch_events, max_put_by_bytes)


def outbox_of(
    controller: MemoryController, batch_events: int = 0, max_put_by_bytes: int = PLENTY
) -> Outbox:
    outbox = new_outbox(controller, batch_events=batch_events, max_put_by_bytes=max_put_by_bytes)
    outbox.reposition()
    return outbox


def frames(outbox: Outbox, under_way_bytes: int = 0) -> list[tuple[sync_pb2.Runs, int]]:
    """What goes out now, with so much under way already."""
    found = []
    while (taken := outbox.next_frame(under_way_bytes)) is not None:
        found.append((taken[0].runs, taken[1]))
    return found


def write_node(controller: MemoryController, name: str = "n1", size: int = 1) -> None:
    spec = node_pb2.NodeSpec(display_name="x" * size)
    controller.submit(
        lambda p: p.write("region-a", f"nodes/{name}", "node_spec", spec, principal="user:a")
    )


def commits_from(
    controller: MemoryController, reading: LogReading, count: int = 1000
) -> list[event_pb2.Commit]:
    return controller.commits[reading.first_offset : reading.first_offset + count]


def spans(outbox: Outbox, runs: sync_pb2.Runs) -> list[tuple[StreamId, int, int]]:
    return [
        (outbox.interned[run.stream_index], run.first_sequence, run.seal.sequence)
        for run in runs.runs
    ]


def taken(outbox: Outbox) -> list[tuple[StreamId, int, int]]:
    """Stream, first and last number of the runs that are ready, which are taken out."""
    found = []
    for runs, size in frames(outbox):
        assert size == sum(len(e) for run in runs.runs for e in run.events)
        for run in runs.runs:
            assert run.seal.sequence == run.first_sequence + len(run.events) - 1
            stream = outbox.interned[run.stream_index]
            found.append((stream, run.first_sequence, run.seal.sequence))
    return found


def drained(controller: MemoryController, outbox: Outbox) -> list[tuple[StreamId, int, int]]:
    found = []
    while (reading := outbox.next_reading()) is not None:
        outbox.take(reading, commits_from(controller, reading))
        found += taken(outbox)
    return found


def test_many_commits_of_a_stream_travel_as_one_run_under_the_last_seal(
    region: MemoryController,
) -> None:
    for number in range(20):
        region.write_policy("region-a", f"v{number}")
    outbox = outbox_of(region)
    reading = outbox.next_reading()
    assert reading is not None
    outbox.take(reading, commits_from(region, reading))
    assert outbox.exhausted is False
    [(runs, _)] = frames(outbox)
    [run] = runs.runs
    assert run.seal == region.commits[-1].runs[0].seal
    assert (run.first_sequence, run.seal.sequence, len(run.events)) == (1, 20, 20)
    assert outbox.exhausted


def test_event_bytes_are_those_of_the_log(region: MemoryController) -> None:
    region.write_policy("region-a", "v1")
    outbox = outbox_of(region)
    reading = outbox.next_reading()
    assert reading is not None
    outbox.take(reading, commits_from(region, reading))
    [(runs, _)] = frames(outbox)
    assert list(runs.runs[0].events) == list(region.commits[-1].runs[0].events)


def test_joined_runs_hold_no_more_events_than_the_strategy_says(region: MemoryController) -> None:
    for number in range(5):
        region.write_policy("region-a", f"v{number}")
    lengths = [last - first + 1 for _, first, last in drained(region, outbox_of(region, 2))]
    assert lengths == [2, 2, 1]


def test_joined_runs_and_frames_are_cut_by_size(region: MemoryController) -> None:
    for _ in range(5):
        write_node(region, size=MAX_JOINED_BYTES // 3)
    outbox = outbox_of(region)
    reading = outbox.next_reading()
    assert reading is not None
    outbox.take(reading, commits_from(region, reading))
    sizes = [size for _, size in frames(outbox)]
    assert len(sizes) == 3
    assert max(sizes) <= MAX_JOINED_BYTES


def test_frame_names_no_more_runs_than_its_bound(region: MemoryController) -> None:
    def decide(proposal: Proposal) -> None:
        for number in range(MAX_RUNS_A_FRAME + 1):
            proposal.write(
                f"domain-{number}", "nodes/n1", "node_spec", node_pb2.NodeSpec(), principal="a"
            )

    region.submit(decide)
    outbox = outbox_of(region)
    reading = outbox.next_reading()
    assert reading is not None
    outbox.take(reading, commits_from(region, reading))
    assert [len(runs.runs) for runs, _ in frames(outbox)] == [MAX_RUNS_A_FRAME, 1]


def test_streams_are_named_in_full_once_and_by_number_after(region: MemoryController) -> None:
    write_node(region)
    outbox = outbox_of(region)
    drained(region, outbox)
    write_node(region)
    reading = outbox.next_reading()
    assert reading is not None
    outbox.take(reading, commits_from(region, reading))
    [(runs, _)] = frames(outbox)
    assert list(runs.interns) == []
    assert outbox.interned[runs.runs[0].stream_index] == state_of(region)


def test_first_use_of_a_number_names_its_stream(region: MemoryController) -> None:
    write_node(region)
    outbox = outbox_of(region)
    reading = outbox.next_reading()
    assert reading is not None
    outbox.take(reading, commits_from(region, reading))
    [(runs, _)] = frames(outbox)
    [intern] = runs.interns
    assert isinstance(intern, sync_pb2.StreamIntern)
    assert stream_from_message(intern.stream) == state_of(region)


def overtaken(region: MemoryController) -> None:
    """Fifteen state events in as many commits, and a control event among the last of them."""
    for _ in range(10):
        write_node(region)
    region.write_policy("region-a", "urgent")
    for _ in range(5):
        write_node(region)


@pytest.mark.parametrize("max_put_by_bytes", [1, 300, PLENTY])
def test_control_overtakes_what_lies_before_it(
    region: MemoryController, max_put_by_bytes: int
) -> None:
    overtaken(region)
    outbox = outbox_of(region, max_put_by_bytes=max_put_by_bytes)
    order = []
    while (reading := outbox.next_reading()) is not None or not outbox.exhausted:
        if reading is not None:
            outbox.take(reading, commits_from(region, reading, count=3))
        while (frame := outbox.next_frame(LEAD_BYTES)) is not None:
            order += spans(outbox, frame[0].runs)
    assert order[0] == (control_of(region), 1, 1)
    assert [span for stream, *span in order if stream.lane is Lane.CONTROL] == [[1, 1]]
    numbers = [
        n for s, first, last in order if s.lane is Lane.STATE for n in range(first, last + 1)
    ]
    assert numbers == list(range(1, 16))


def test_log_is_read_once_where_what_is_overtaken_may_be_put_by(region: MemoryController) -> None:
    overtaken(region)
    outbox = outbox_of(region)
    offsets = []
    while (reading := outbox.next_reading()) is not None:
        commits = commits_from(region, reading, count=3)
        offsets += [commit.offset for commit in commits]
        outbox.take(reading, commits)
        frames(outbox, LEAD_BYTES)
    assert offsets == sorted(set(offsets))
    assert outbox.exhausted


def test_line_is_not_idle_while_control_is_looked_for(region: MemoryController) -> None:
    overtaken(region)
    outbox = outbox_of(region)
    reading = outbox.next_reading()
    assert reading is not None
    outbox.take(reading, commits_from(region, reading, count=3))
    assert outbox.next_frame(LEAD_BYTES) is None
    lead = outbox.next_frame(LEAD_BYTES - 1)
    assert lead is not None
    assert spans(outbox, lead[0].runs) == [(state_of(region), 1, 3)]


def test_fact_stated_during_a_backlog_is_fetched_by_itself(region: MemoryController) -> None:
    for _ in range(FAR_COMMITS + 10):
        write_node(region)
    outbox = outbox_of(region, max_put_by_bytes=1)
    reading = outbox.next_reading()
    assert reading is not None
    outbox.take(reading, commits_from(region, reading, count=2))
    region.write_policy("region-a", "urgent")

    reading = outbox.next_reading()

    assert reading == LogReading(region.state.next_offset - 1, control_only=True)
    assert outbox.take(reading, commits_from(region, reading))
    frame = outbox.next_frame(LEAD_BYTES)
    assert frame is not None
    assert spans(outbox, frame[0].runs) == [(control_of(region), 1, 1)]


def test_backlog_leaves_room_while_control_is_live(region: MemoryController) -> None:
    overtaken(region)
    outbox = outbox_of(region)
    while (reading := outbox.next_reading()) is not None:
        outbox.take(reading, commits_from(region, reading, count=3))
        outbox.next_frame(1, control_is_live=True)
    assert outbox.next_frame(1, control_is_live=True) is None
    assert outbox.next_frame(0, control_is_live=True) is not None


def test_joined_run_is_cut_at_its_seals_while_control_is_live(region: MemoryController) -> None:
    for _ in range(9):
        write_node(region, size=PART_BYTES // 2)
    region.write_policy("region-a", "urgent")
    outbox = outbox_of(region)
    reading = outbox.next_reading()
    assert reading is not None
    outbox.take(reading, commits_from(region, reading)[:-1])
    parts = []
    while (part := outbox.next_frame(0, control_is_live=True)) is not None:
        parts += spans(outbox, part[0].runs)
        [run] = part[0].runs.runs
        sealed = [r for commit in region.commits for r in commit.runs if r.seal == run.seal]
        assert sealed
        assert run.seal.sequence == run.first_sequence + len(run.events) - 1
        assert part[1] == sum(map(len, run.events))
    state = state_of(region)
    assert parts == [(state, 1, 2), (state, 3, 4), (state, 5, 6), (state, 7, 8), (state, 9, 9)]


def test_control_of_before_the_session_does_not_count_as_live(region: MemoryController) -> None:
    overtaken(region)
    outbox = outbox_of(region)
    live = []
    while (reading := outbox.next_reading()) is not None:
        live.append(outbox.take(reading, commits_from(region, reading, count=3)))
        outbox.next_frame(LEAD_BYTES)
    assert not any(live)


def test_streams_are_numbered_in_the_order_in_which_they_go_out(region: MemoryController) -> None:
    overtaken(region)
    outbox = outbox_of(region)
    while (reading := outbox.next_reading()) is not None:
        outbox.take(reading, commits_from(region, reading, count=3))
        for runs, _ in frames(outbox, LEAD_BYTES):
            for intern in runs.interns:
                assert outbox.interned[intern.index] == stream_from_message(intern.stream)
    assert outbox.interned == [control_of(region), state_of(region)]


def test_only_wanted_streams_go_out(region: MemoryController) -> None:
    region.write_policy("region-a", "v1")
    streams = {stream for stream, _, _ in drained(region, outbox_of(region))}
    assert streams == {control_of(region)}


def test_peer_is_sent_only_what_it_lacks_even_within_a_run(region: MemoryController) -> None:
    key = Key("region-a", "nodes/n1", "node_spec")
    region.submit(
        lambda p: [p.write(*key, node_pb2.NodeSpec(), principal="user:a") for _ in range(5)]
    )
    write_node(region)
    outbox = new_outbox(region)
    outbox.peer_holds(state_of(region), 3)
    outbox.reposition()
    assert drained(region, outbox) == [(state_of(region), 4, 6)]


def test_peer_that_holds_more_than_we_is_sent_nothing_of_it(region: MemoryController) -> None:
    write_node(region)
    outbox = new_outbox(region)
    outbox.peer_holds(state_of(region), 9)
    outbox.reposition()
    assert drained(region, outbox) == []
    assert outbox.sent[state_of(region)] == 9
    assert outbox.exhausted


def test_reading_begins_at_the_first_event_the_peer_lacks(region: MemoryController) -> None:
    for _ in range(6):
        write_node(region)
    outbox = new_outbox(region)
    outbox.peer_holds(state_of(region), 4)
    outbox.reposition()
    fifth = region.state.streams[state_of(region)].index.offset_of(5)
    reading = outbox.next_reading()
    assert reading is not None
    assert reading.first_offset == fifth


def test_stream_wanted_in_mid_session_goes_out_from_its_first_event(
    region: MemoryController,
) -> None:
    wanted = {control_of(region)}
    for _ in range(4):
        write_node(region)
    region.write_policy("region-a", "v1")
    outbox = new_outbox(region, wanted.__contains__)
    outbox.reposition()
    assert drained(region, outbox) == [(control_of(region), 1, 1)]
    write_node(region)

    wanted.add(state_of(region))
    before = drained(region, outbox)
    outbox.reposition()

    assert before == []
    assert drained(region, outbox) == [(state_of(region), 1, 5)]


def test_reading_under_way_does_not_undo_a_repositioning(region: MemoryController) -> None:
    wanted = {control_of(region)}
    write_node(region)
    region.write_policy("region-a", "v1")
    outbox = new_outbox(region, wanted.__contains__)
    outbox.reposition()
    reading = outbox.next_reading()
    assert reading is not None

    wanted.add(state_of(region))
    outbox.reposition()
    outbox.take(reading, commits_from(region, reading))

    assert sorted(taken(outbox) + drained(region, outbox)) == [
        (control_of(region), 1, 1),
        (state_of(region), 1, 1),
    ]


def test_control_wanted_in_mid_session_overtakes_too(region: MemoryController) -> None:
    wanted = {state_of(region)}
    region.write_policy("region-a", "v1")
    for _ in range(3):
        write_node(region)
    outbox = new_outbox(region, wanted.__contains__)
    outbox.reposition()
    drained(region, outbox)
    for _ in range(3):
        write_node(region)

    wanted.add(control_of(region))
    outbox.reposition()

    assert drained(region, outbox) == [(control_of(region), 1, 1), (state_of(region), 4, 6)]
