from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from nodeagent.backlog import NUMBERING_BATCH, Backlog
from nodeagent.errors import StateUnavailable
from nodeagent.identity import Identity
from nodeagent.statedir import StateDir
from tests.unit.nodeagent.made_up import NODE, database, inventory_report, state_report


def backlog(path: Path, max_reports: int = 100, max_chunk_bytes: int = 1000) -> Backlog:
    store = database(path)
    return Backlog(store, Identity(store, NODE), max_reports, max_chunk_bytes)


def drained(kept: Backlog) -> list[tuple[int, str]]:
    """All that waits, as (number, what it says), sent and acknowledged one by one."""
    found = []
    while (report := kept.next_after(kept.acknowledged)) is not None:
        said = report.inventory.hostname or report.actual_state.reported_version
        found.append((report.sequence, said))
        assert kept.acknowledge(report.sequence) == 1
    return found


def test_reports_come_out_in_order_with_dense_numbers(tmp_path: Path) -> None:
    kept = backlog(tmp_path)
    count = 2 * NUMBERING_BATCH + 3
    for number in range(count):
        kept.append(state_report(f"v{number}"), {})
    assert (kept.waiting, kept.oldest) == (count, 1)
    assert drained(kept) == [(number + 1, f"v{number}") for number in range(count)]
    assert (kept.waiting, kept.oldest, kept.acknowledged) == (0, 0, count)


def test_everything_survives_a_restart(tmp_path: Path) -> None:
    state = StateDir.open(tmp_path)
    before = Backlog(state.database, Identity(state.database, NODE))
    for number in range(3):
        before.append(state_report(f"v{number}"), {})
    assert before.next_after(0)
    before.acknowledge(1)
    source = Identity(state.database, NODE).source
    state.close()
    store = database(tmp_path)
    after = Backlog(store, Identity(store, NODE))
    assert Identity(store, NODE).source == source
    assert (after.waiting, after.acknowledged, after.oldest) == (2, 1, 2)
    after.append(state_report("v3"), {})
    assert drained(after) == [(2, "v1"), (3, "v2"), (4, "v3")]


def test_a_report_sent_twice_keeps_its_number(tmp_path: Path) -> None:
    kept = backlog(tmp_path)
    kept.append(state_report("v0"), {})
    first = kept.next_after(0)
    assert first == kept.next_after(0)
    assert first is not None
    assert kept.next_after(first.sequence) is None


def test_a_full_backlog_gives_up_superseded_telemetry_first_and_counts_it(tmp_path: Path) -> None:
    kept = backlog(tmp_path, max_reports=4)
    kept.append(state_report("v0"), {})
    for number in range(4):
        kept.append(inventory_report(f"h{number}"), {})
    kept.append(state_report("v1"), {})
    assert (kept.waiting, kept.superseded) == (4, 2)
    assert drained(kept) == [(1, "v0"), (2, "h2"), (3, "h3"), (4, "v1")]


def test_a_full_backlog_always_keeps_the_newest_of_each_kind(tmp_path: Path) -> None:
    kept = backlog(tmp_path, max_reports=2)
    for number in range(5):
        kept.append(inventory_report(f"h{number}"), {})
        kept.append(state_report(f"v{number}"), {})
    assert drained(kept) == [(1, "h4"), (2, "v4")]
    assert kept.superseded == 8


def test_a_numbered_report_is_never_given_up(tmp_path: Path) -> None:
    kept = backlog(tmp_path, max_reports=3)
    for number in range(3):
        kept.append(inventory_report(f"h{number}"), {})
    assert kept.next_after(0) is not None
    for number in range(3, 8):
        kept.append(inventory_report(f"h{number}"), {})
    assert drained(kept) == [(1, "h0"), (2, "h1"), (3, "h2"), (4, "h7")]


def test_chunks_live_as_long_as_a_report_that_names_them(tmp_path: Path) -> None:
    kept = backlog(tmp_path)
    kept.append(inventory_report("h0"), {"d": b"data", "e": b"else"})
    kept.append(inventory_report("h1"), {"d": b"data"})
    assert (kept.chunk("d"), kept.chunk("e"), kept.chunk("f")) == (b"data", b"else", None)
    assert kept.next_after(0)
    kept.acknowledge(1)
    assert (kept.chunk("d"), kept.chunk("e")) == (b"data", None)
    kept.acknowledge(2)
    assert kept.chunk("d") is None


def test_chunks_are_bounded_in_bytes(tmp_path: Path) -> None:
    kept = backlog(tmp_path, max_chunk_bytes=250)
    for number in range(5):
        kept.append(inventory_report(f"h{number}"), {str(number): bytes([number]) * 100})
    assert (kept.waiting, kept.superseded) == (2, 3)
    assert (kept.chunk("2"), kept.chunk("3")) == (None, bytes([3]) * 100)


def test_beginning_anew_renumbers_what_waits_under_a_new_source(tmp_path: Path) -> None:
    store = database(tmp_path)
    identity = Identity(store, NODE)
    kept = Backlog(store, identity)
    source = identity.source
    for number in range(3):
        kept.append(state_report(f"v{number}"), {})
    assert kept.next_after(0)
    kept.acknowledge(1)
    kept.begin_anew()
    assert identity.source != source
    assert Identity(store, NODE).source == identity.source
    assert drained(kept) == [(1, "v1"), (2, "v2")]


def test_nodes_sharing_a_file_do_not_see_each_other(tmp_path: Path) -> None:
    store = database(tmp_path)
    one, two = (Backlog(store, Identity(store, node)) for node in ("one", "two"))
    one.append(inventory_report("of-one"), {"d": b"shared"})
    two.append(inventory_report("of-two"), {"d": b"shared"})
    assert drained(one) == [(1, "of-one")]
    assert (one.chunk("d"), two.chunk("d")) == (None, b"shared")
    assert drained(two) == [(1, "of-two")]


@pytest.mark.parametrize("release", ["of now", "before"])
def test_disk_is_given_back_when_all_is_acknowledged(tmp_path: Path, release: str) -> None:
    if release == "before":
        connection = sqlite3.connect(tmp_path / "agent.db")
        connection.executescript("PRAGMA auto_vacuum = NONE; CREATE TABLE x (y); DROP TABLE x;")
        connection.close()
    kept = backlog(tmp_path, max_chunk_bytes=1 << 30)
    for number in range(6):
        digest = f"chunk {number}"
        kept.append(inventory_report(digest), {digest: bytes(1 << 20)})
    last = 0
    while (report := kept.next_after(last)) is not None:
        last = report.sequence

    def held() -> int:
        return sum(path.stat().st_size for path in tmp_path.glob("agent.db*"))

    kept.acknowledge(last - 1)
    assert held() > 6 << 20
    kept.acknowledge(last)
    assert held() < 1 << 20
    kept.append(state_report("v1"), {})
    assert drained(kept) == [(last + 1, "v1")]


def test_a_report_that_is_damaged_on_the_disk_is_named_and_never_left_out(tmp_path: Path) -> None:
    kept = backlog(tmp_path)
    for number in range(3):
        kept.append(state_report(f"v{number}"), {})
    with sqlite3.connect(tmp_path / "agent.db") as disk:
        disk.execute("UPDATE report SET body = X'ff' WHERE entry = 2")
    assert kept.next_after(0)
    for _ in range(2):
        with pytest.raises(StateUnavailable, match="report 2 is damaged"):
            kept.next_after(1)
    assert kept.waiting == 3
