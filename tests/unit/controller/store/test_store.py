from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

import controller.store.store as under_test
from controller.log.port import EMPTY_HASH, hash_after
from controller.signing import Ed25519Verifier
from controller.store.errors import StoreDamaged, StoreInUse
from controller.store.store import Store
from controller.twin.history import MAX_TRANSITIONS, Histories
from controller.twin.marks import EXPIRES, HAS_LINK, LIVES_HERE, NAMES_VALUES
from federation.identifiers import Key
from federation.state import State
from souverix.event.v1 import event_pb2
from souverix.fleet.v1 import (
    connectivity_pb2,
    domain_pb2,
    lifecycle_pb2,
    node_pb2,
    observation_pb2,
)
from tests.federation_fixture import ROOT, MemoryController, root_controller
from tests.federation_store import contents

DEADLINE_S = 10.0
NONCE = b"n" * 16


class Log:
    """A controller's commits as a log keeps them."""

    def __init__(self) -> None:
        self.controller: MemoryController = root_controller()
        self.hashes = [EMPTY_HASH]
        self._hash_new()

    def _hash_new(self) -> None:
        for commit in self.controller.commits[len(self.hashes) - 1 :]:
            self.hashes.append(hash_after(self.hashes[-1], commit.SerializeToString()))

    async def hash_before(self, offset: int) -> bytes:
        return self.hashes[offset]

    def write(self, subject: str, aspect: str, body: object, request_id: str = "") -> None:
        self.controller.submit(
            lambda p: p.write(ROOT, subject, aspect, body, principal="a", request_id=request_id)
        )
        self._hash_new()

    def add_nodes(self, count: int) -> None:
        for number in range(count):
            subject = f"nodes/n{number}"
            placement = node_pb2.Placement(domain=ROOT, epoch=1)
            self.write(subject, "placement", placement, request_id=f"r{number}")
            self.write(subject, "existence", domain_pb2.Existence(exists=True))
            self.write(subject, "node_spec", node_pb2.NodeSpec(display_name=f"node {number}"))


class Opened:
    """One life of a replica's state with its store."""

    def __init__(self, path: Path, log: Log, max_hot_subjects: int = 5) -> None:
        root = log.controller
        self.state = State(root.name, Ed25519Verifier(), root.root_signer.public_key)
        self.histories = Histories(self.state)
        self.store = Store(path, self.state, self.histories, max_hot_subjects=max_hot_subjects)
        self.log = log

    async def open(self, nonce: bytes = NONCE) -> int:
        """Opens the store and replays the tail; returns the offset it began at."""
        cut = await self.store.open(nonce, self.log.hash_before)
        self.follow()
        return cut.next_offset if cut is not None else 0

    def follow(self) -> None:
        """Applies what the log has beyond this."""
        for commit in self.log.controller.commits[self.state.next_offset :]:
            again = event_pb2.Commit.FromString(commit.SerializeToString())
            applied = self.state.apply(commit.offset, again)
            self.histories.take_note(applied)
            self.store.take_note(applied, self.log.hashes[commit.offset + 1])

    def cold(self) -> int:
        table = self.state.table
        return sum(
            table.mark(domain, subject) is not None
            for domain, subject in self.state.subjects_everywhere("nodes")
        )


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "WRITE_INTERVAL_S", 0.05)
    monkeypatch.setattr(under_test, "BATCH_SUMMARIES", 2)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture
async def opened(path: Path, log: Log) -> AsyncIterator[Opened]:
    one = Opened(path, log)
    await one.open()
    yield one
    await one.store.close()


async def until(condition: object, what: str) -> None:
    end = asyncio.get_running_loop().time() + DEADLINE_S
    while not condition():  # type: ignore[operator]
        assert asyncio.get_running_loop().time() < end, f"{what} did not come about"
        await asyncio.sleep(0.01)


async def stored(path: Path, log: Log, **hot: int) -> None:
    """Leaves a store of the whole log."""
    one = Opened(path, log, **hot)
    await one.open()
    await one.store.close()


def damage(path: Path) -> None:
    path.write_bytes(b"no database at all" * 1000)


def distrust(path: Path) -> None:
    path.with_name("store.sqlite.damaged").touch()


# Starting.


async def test_start_goes_on_from_the_store_and_has_what_a_replay_gives(
    path: Path, log: Log
) -> None:
    log.add_nodes(30)
    await stored(path, log)
    end = len(log.controller.commits)
    log.add_nodes(3)

    again = Opened(path, log)
    assert await again.open() == end
    assert again.cold() > 20
    assert contents(again.state) == contents(log.controller.state)
    await again.store.close()


async def test_stored_conflict_stays_in_memory(path: Path, log: Log) -> None:
    log.add_nodes(10)
    other = MemoryController("region-a-control", "region-a", log.controller.root_signer)
    log.controller.declare("region-a", ROOT, other)
    key = Key("region-a", "nodes/n1", "node_spec")
    for controller in (log.controller, other):
        if controller is other:
            for commit in log.controller.commits[:-1]:
                for run in commit.runs:
                    other.receive("parent", run)
        controller.submit(
            lambda p: p.write(*key, node_pb2.NodeSpec(display_name="x"), principal="a")
        )
    log.controller.receive_from(other)
    log._hash_new()
    assert len(log.controller.state.siblings(key)) == 2
    await stored(path, log, max_hot_subjects=0)

    again = Opened(path, log, max_hot_subjects=0)
    await again.open()
    assert again.state.table.hot("region-a", "nodes/n1") is not None
    assert contents(again.state) == contents(log.controller.state)
    await again.store.close()


@pytest.mark.parametrize("case", ["another log", "set back", "rewritten", "damaged", "distrusted"])
async def test_store_that_does_not_fit_is_discarded(path: Path, log: Log, case: str) -> None:
    log.add_nodes(5)
    await stored(path, log)
    nonce = NONCE
    if case == "another log":
        nonce = b"m" * 16
    elif case == "set back":
        other = Log()
        other.add_nodes(2)
        log.controller, log.hashes = other.controller, other.hashes
    elif case == "rewritten":
        log.hashes[-1] = bytes(32)
    elif case == "damaged":
        damage(path)
    else:
        distrust(path)

    again = Opened(path, log)
    assert await again.open(nonce) == 0
    assert contents(again.state) == contents(log.controller.state)
    await again.store.close()
    last = Opened(path, log)
    assert await last.open(nonce) == len(log.controller.commits)
    await last.store.close()


@pytest.mark.parametrize(
    "statement",
    ["UPDATE parts SET data = x'0942'", "UPDATE subjects SET aspects = x'0942'"],
    ids=["parts", "subjects"],
)
async def test_store_with_unreadable_contents_is_discarded_before_anything_of_it_counts(
    path: Path, log: Log, statement: str
) -> None:
    log.add_nodes(5)
    await stored(path, log)
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()
    again = Opened(path, log)
    assert await again.open() == 0
    assert contents(again.state) == contents(log.controller.state)
    await again.store.close()


async def test_store_of_another_format_or_of_other_meaning_is_discarded(
    path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stored(path, log)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    again = Opened(path, log)
    assert await again.open() == 0
    await again.store.close()
    monkeypatch.setattr(under_test, "MEANING", "another release's")
    last = Opened(path, log)
    assert await last.open() == 0
    await last.store.close()


async def test_one_directory_serves_one_process(opened: Opened, path: Path, log: Log) -> None:
    second = Opened(path, log)
    with pytest.raises(StoreInUse, match="data_dir of its own"):
        await second.open()
    await second.store.close()


# Writing behind.


async def test_every_image_that_a_crash_may_leave_is_used_correctly_or_discarded(
    path: Path, log: Log, tmp_path: Path
) -> None:
    one = Opened(path, log, max_hot_subjects=3)
    await one.open()
    for number in range(12):
        log.write("nodes/n1", "node_spec", node_pb2.NodeSpec(display_name=f"v{number}"))
        log.add_nodes(number)
        one.follow()
        one.store._wake.set()
        await asyncio.sleep(0.001 * number)
        image = tmp_path / f"image-{number}"
        image.mkdir()
        for file in sorted(path.parent.glob("store.sqlite*"), reverse=True):
            if file.is_file():
                shutil.copy(file, image / file.name)
        survivor = Opened(image / "store.sqlite", log)
        await survivor.open()
        assert contents(survivor.state) == contents(log.controller.state)
        await survivor.store.close()
    await one.store.close()


async def test_changes_are_written_within_the_interval_and_cooled_to_the_bound(
    opened: Opened, log: Log
) -> None:
    log.add_nodes(20)
    opened.follow()
    assert opened.cold() == 0
    await until(lambda: opened.cold() == 15, "cooling")
    assert contents(opened.state) == contents(log.controller.state)


async def test_reading_makes_hot_and_others_cold(opened: Opened, log: Log) -> None:
    log.add_nodes(20)
    opened.follow()
    await until(lambda: opened.cold() == 15, "cooling")
    for number in range(20):
        assert opened.state.winner(Key(ROOT, f"nodes/n{number}", "node_spec")) is not None
    assert opened.cold() == 0
    await until(lambda: opened.cold() == 15, "cooling again")
    assert opened.state.table.hot(ROOT, "nodes/n14") is not None


async def test_write_to_a_cold_subject_is_not_lost_when_others_are_cooled(
    opened: Opened, log: Log
) -> None:
    log.add_nodes(20)
    opened.follow()
    await until(lambda: opened.cold() == 15, "cooling")

    def write_all(proposal: object) -> None:
        for number in range(20):
            proposal.write(  # type: ignore[attr-defined]
                ROOT,
                f"nodes/n{number}",
                "node_spec",
                node_pb2.NodeSpec(display_name="changed"),
                principal="a",
            )

    log.controller.submit(write_all)
    log._hash_new()
    opened.follow()
    await until(lambda: opened.cold() == 15, "cooling again")
    assert contents(opened.state) == contents(log.controller.state)


async def test_marks_say_what_passes_over_all_nodes_look_for(path: Path, log: Log) -> None:
    log.add_nodes(3)
    ends = lifecycle_pb2.LifecycleState()
    ends.expire_time.seconds = 1
    log.write("nodes/n0", "lifecycle", ends)
    large = observation_pb2.Inventory()
    large.large_values.add(digest="d")
    log.write("nodes/n1", "inventory", large)
    log.write("nodes/n2", "existence", domain_pb2.Existence(exists=False))
    log.write("nodes/n2", "link_state", connectivity_pb2.LinkState())
    await stored(path, log)
    again = Opened(path, log)
    await again.open()
    marks = [again.state.table.mark(ROOT, f"nodes/n{number}") for number in range(3)]
    assert marks == [LIVES_HERE | EXPIRES, LIVES_HERE | NAMES_VALUES, HAS_LINK]
    await again.store.close()


class Made:
    """Summaries as a read model makes them, handed over to the store few at a time."""

    def __init__(self, form: str = "one") -> None:
        self.form = form
        self.left: dict[str, bytes] = {}

    def unsaved(self) -> int:
        return len(self.left)

    def leaving(self, most: int) -> Callable[[], Iterator[tuple[str, str, bytes]]]:
        some = [(ROOT, subject, self.left.pop(subject)) for subject in list(self.left)[:most]]
        return lambda: iter(some)


async def summaries(path: Path, log: Log, form: str = "one") -> dict[str, bytes | None]:
    """The summaries of nodes that a start finds."""
    again = Opened(path, log)
    again.store.summarise(Made(form))
    await again.open()
    found = [row async for page in again.store.summaries() for row in page]
    await again.store.close()
    return {subject: data for _, subject, data in found if subject.startswith("nodes/")}


async def test_summaries_are_stored_though_nothing_is_committed_and_read_at_a_start(
    path: Path, log: Log
) -> None:
    log.add_nodes(7)
    one, made = Opened(path, log), Made()
    one.store.summarise(made)
    await one.open()
    await until(lambda: one.store._is_level(), "a level store")
    made.left = {f"nodes/n{n}": b"s%d" % n for n in range(5)}
    await until(lambda: not made.left, "the writing of all summaries")
    made.left = {"nodes/n5": b"", "nodes/none-such": b"?"}
    await one.store.close()
    found = await summaries(path, log)
    assert found == {f"nodes/n{n}": b"s%d" % n for n in range(5)} | {
        "nodes/n5": b"",
        "nodes/n6": None,
    }


async def test_summary_goes_with_the_facts_it_was_made_from(path: Path, log: Log) -> None:
    log.add_nodes(3)
    one, made = Opened(path, log), Made()
    one.store.summarise(made)
    await one.open()
    made.left = {f"nodes/n{n}": b"old" for n in range(3)}
    await until(lambda: one.store._is_level(), "a level store")
    for number in range(2):
        log.write(f"nodes/n{number}", "node_spec", node_pb2.NodeSpec(display_name="new"))
    made.left = {"nodes/n1": b"new"}
    one.follow()
    await one.store.close()
    assert await summaries(path, log) == {
        "nodes/n0": None,
        "nodes/n1": b"new",
        "nodes/n2": b"old",
    }


async def test_summaries_of_another_form_are_dropped(path: Path, log: Log) -> None:
    log.add_nodes(2)
    one, made = Opened(path, log), Made()
    one.store.summarise(made)
    await one.open()
    made.left = {"nodes/n0": b"one", "nodes/n1": b"one"}
    await one.store.close()
    assert set((await summaries(path, log, "another")).values()) == {None}
    assert set((await summaries(path, log)).values()) == {None}


async def test_links_are_read_apart_from_the_rest(path: Path, log: Log) -> None:
    log.add_nodes(2)
    log.write("nodes/n1", "link_state", connectivity_pb2.LinkState(reason="linked"))
    await stored(path, log)
    again = Opened(path, log)
    await again.open()
    found = [row async for page in again.store.links() for row in page]
    assert [(subject, raw is None) for _, subject, raw in found] == [
        ("nodes/n0", True),
        ("nodes/n1", False),
    ]
    assert found[1][2] is not None
    assert event_pb2.Event.FromString(found[1][2]).link_state.reason == "linked"
    await again.store.close()


async def test_transitions_outlast_a_restart_within_their_bound(path: Path, log: Log) -> None:
    log.add_nodes(1)
    for number in range(MAX_TRANSITIONS + 10):
        log.write("nodes/n0", "link_state", connectivity_pb2.LinkState(reason=f"t{number}"))
    await stored(path, log)
    again = Opened(path, log)
    await again.open()
    log.write("nodes/n0", "link_state", connectivity_pb2.LinkState(reason="last"))
    again.follow()
    held = [w.body().reason for w in again.histories.of("nodes/n0", "link_state")]
    assert held == [*(f"t{n}" for n in range(11, MAX_TRANSITIONS + 10)), "last"]
    await again.store.close()
    last = Opened(path, log)
    await last.open()
    assert [w.body().reason for w in last.histories.of("nodes/n0", "link_state")] == held
    assert last.histories.of("nodes/n0", "lifecycle") == []
    await last.store.close()


async def test_rows_are_small_once_there_are_enough_to_learn_from(path: Path, log: Log) -> None:
    log.add_nodes(600)
    await stored(path, log)
    with sqlite3.connect(path) as connection:
        [(mean,)] = connection.execute("SELECT avg(length(aspects)) FROM subjects")
        [(dictionaries,)] = connection.execute(
            "SELECT count(*) FROM meta WHERE name = 'dictionary'"
        )
    connection.close()
    assert dictionaries == 1
    assert mean < 120
    again = Opened(path, log)
    await again.open()
    assert contents(again.state) == contents(log.controller.state)
    await again.store.close()


# Failing.


async def test_file_that_cannot_be_read_any_more_ends_the_process_and_is_made_anew(
    path: Path, log: Log
) -> None:
    log.add_nodes(10)
    await stored(path, log)
    one = Opened(path, log)
    await one.open()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE subjects SET aspects = x'0942'")
    connection.close()
    with pytest.raises(StoreDamaged, match="made anew from the log"):
        one.state.winner(Key(ROOT, "nodes/n1", "node_spec"))
    log.write("nodes/n99", "node_spec", node_pb2.NodeSpec())
    with pytest.raises(StoreDamaged):
        one.follow()
    await one.store.close()
    again = Opened(path, log)
    assert await again.open() == 0
    assert contents(again.state) == contents(log.controller.state)
    await again.store.close()


async def test_disk_that_refuses_is_asked_again_and_nothing_is_cooled_meanwhile(
    opened: Opened, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "RETRY_S", 0.01)
    file = opened.store._file
    write, tries = file.write, []

    def refuse(batch: object) -> object:
        tries.append(1)
        if len(tries) < 3:
            raise sqlite3.OperationalError("disk I/O error")
        return write(batch)  # type: ignore[arg-type]

    monkeypatch.setattr(file, "write", refuse)
    log.add_nodes(20)
    opened.follow()
    await until(lambda: len(tries) == 2, "a second try")
    await until(lambda: opened.cold() == 15, "cooling")
    assert contents(opened.state) == contents(log.controller.state)


async def test_replay_waits_for_the_file(
    opened: Opened, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "MAX_CHANGED_SUBJECTS", 10)
    log.add_nodes(20)
    opened.follow()
    await asyncio.wait_for(opened.store.relieve(), DEADLINE_S)
    assert opened.cold() == 15


class Counter:
    """A fold that counts commits."""

    def __init__(self) -> None:
        self.commits = 0

    def stored(self) -> bytes:
        return self.commits.to_bytes(4, "big")

    def restore(self, data: bytes) -> None:
        self.commits = int.from_bytes(data, "big")


async def test_other_folds_of_the_log_are_stored_at_the_same_cut(path: Path, log: Log) -> None:
    log.add_nodes(3)
    one, counter = Opened(path, log), Counter()
    one.store.keep("commits", counter)
    counter.commits = len(log.controller.commits)
    await one.open()
    await one.store.close()
    again, restored = Opened(path, log), Counter()
    again.store.keep("commits", restored)
    assert await again.open() == restored.commits == len(log.controller.commits)
    await again.store.close()
