from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import pytest

from controller.errors import ServiceError
from controller.log.port import hash_after
from controller.log.stored import decode_head, encode_commit, encode_head
from controller.writes import write_audit
from federation.chain import chain_start, extend
from federation.codec import stream_from_message
from federation.errors import InvalidWrite
from federation.identifiers import Key
from federation.proposal import Proposal
from souverix.audit.v1 import audit_pb2
from souverix.audit.v1 import audit_service_pb2 as service
from souverix.event.v1 import event_pb2
from souverix.policy.v1 import policy_pb2
from tests.unit.controller.live_controllers import (
    Federation,
    LiveController,
    as_caller,
    federation_in,
)


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[Federation]:
    async with federation_in(tmp_path) as federation:
        yield federation


@pytest.fixture
async def top(federation: Federation) -> LiveController:
    return await federation.start_root()


def record(number: int, **fields: Any) -> audit_pb2.AuditRecord:
    given: dict[str, Any] = {
        "principal": "user:alice",
        "action": "test",
        "resource": f"nodes/n{number}",
        "outcome": audit_pb2.AUDIT_OUTCOME_ALLOWED,
        **fields,
    }
    return audit_pb2.AuditRecord(**given)


async def audit(at: LiveController, number: int, domain: str = "global", **fields: Any) -> None:
    def decide(proposal: Proposal) -> None:
        write_audit(proposal, record(number, **fields), domain=domain)

    await at.submit(decide)


async def listed(at: LiveController, page_size: int = 0, **fields: Any) -> list[str]:
    """Resources of all entries, page by page."""
    found: list[str] = []
    token = ""
    while True:
        request = service.ListAuditEntriesRequest(page_size=page_size, page_token=token, **fields)
        reply = await at.audit.ListAuditEntries(request, as_caller())
        found += [entry.record.resource for entry in reply.entries]
        token = reply.next_page_token
        if not token:
            return found


async def verified(at: LiveController, **fields: Any) -> list[service.VerifyAuditResponse]:
    request = service.VerifyAuditRequest(**fields)
    return [step async for step in at.audit.VerifyAudit(request, as_caller())]


def faults(steps: list[service.VerifyAuditResponse]) -> dict[str, str]:
    return {s.stream.lane: s.stream.fault for s in steps if s.stream.fault}


def edit_commit(at: LiveController, offset: int, change: Any) -> None:
    """Changes a stored commit behind the controller's back."""
    with closing(sqlite3.connect(at.log_path)) as connection, connection:
        [stored] = connection.execute(
            "SELECT stored FROM commits WHERE log_offset = ?", (offset,)
        ).fetchone()
        edited = change(stored)
        assert edited != stored
        connection.execute("UPDATE commits SET stored = ? WHERE log_offset = ?", (edited, offset))


async def test_entries_are_listed_newest_first_over_streams_and_pages(
    federation: Federation, top: LiveController
) -> None:
    await audit(top, 0)
    zone = await federation.start_below(top, "edge-zone-a1-control", "edge-zone-a1")
    await audit(zone, 1, "edge-zone-a1")
    await audit(zone, 2, "edge-zone-a1")
    await top.receive_from(zone)
    await audit(top, 3)
    await audit(top, 4, "edge-zone-a1")
    expected = [f"nodes/n{n}" for n in (4, 3, 2, 1, 0)]
    for page_size in (0, 1, 2, 5):
        assert await listed(top, page_size) == expected
    assert await listed(top, 1, domain="edge-zone-a1") == ["nodes/n4", "nodes/n2", "nodes/n1"]


async def test_several_entries_of_one_commit_are_listed_once_each(top: LiveController) -> None:
    def decide(proposal: Proposal) -> None:
        for number in range(7):
            write_audit(proposal, record(number), domain="global")

    await top.submit(decide)
    expected = [f"nodes/n{n}" for n in reversed(range(7))]
    for page_size in (1, 3, 7):
        assert await listed(top, page_size) == expected


async def test_entries_written_meanwhile_neither_repeat_nor_hide_others(
    top: LiveController,
) -> None:
    for number in range(4):
        await audit(top, number)
    request = service.ListAuditEntriesRequest(page_size=2)
    first = await top.audit.ListAuditEntries(request, as_caller())
    await audit(top, 9)
    request.page_token = first.next_page_token
    second = await top.audit.ListAuditEntries(request, as_caller())
    assert [e.record.resource for e in second.entries] == ["nodes/n1", "nodes/n0"]
    assert second.next_page_token == ""


async def test_entries_no_longer_in_memory_are_read_from_the_log(top: LiveController) -> None:
    for number in range(6):
        await audit(top, number)
    while len(top.state.audits) > 2:
        top.state.audits.popleft()
    top.replica._recent.clear()
    assert await listed(top, 4) == [f"nodes/n{n}" for n in (5, 4, 3, 2, 1, 0)]


async def test_filters_match_exactly_and_a_long_search_goes_on_with_a_token(
    top: LiveController, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        await audit(
            top,
            number,
            principal="user:bob" if number == 1 else "user:alice",
            outcome=1 + number % 2,
        )
    monkeypatch.setattr("controller.services.audit.MAX_SCANNED", 2)
    assert await listed(top, principal="user:bob") == ["nodes/n1"]
    assert await listed(top, resource="nodes/n3") == ["nodes/n3"]
    assert await listed(top, outcome=audit_pb2.AUDIT_OUTCOME_DENIED) == [
        "nodes/n5",
        "nodes/n3",
        "nodes/n1",
    ]


async def test_a_token_of_another_query_or_of_nobody_is_refused(top: LiveController) -> None:
    for number in range(3):
        await audit(top, number)
    request = service.ListAuditEntriesRequest(page_size=1)
    token = (await top.audit.ListAuditEntries(request, as_caller())).next_page_token
    for bad in (
        service.ListAuditEntriesRequest(page_token=token, principal="user:bob"),
        service.ListAuditEntriesRequest(page_token="junk"),
        service.ListAuditEntriesRequest(page_size=-1),
    ):
        with pytest.raises(InvalidWrite):
            await top.audit.ListAuditEntries(bad, as_caller())


async def test_a_watch_sends_entries_as_they_are_committed(
    federation: Federation, top: LiveController
) -> None:
    await federation.start_below(top, "edge-zone-a1-control", "edge-zone-a1")
    request = service.WatchAuditEntriesRequest(domain="edge-zone-a1")
    async with aclosing(top.audit.WatchAuditEntries(request, as_caller())) as watch:  # type: ignore[type-var]
        first = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        await audit(top, 1)
        await audit(top, 2, "edge-zone-a1")
        entry = (await first).entry
        assert (entry.record.resource, entry.domain) == ("nodes/n2", "edge-zone-a1")
        assert entry.HasField("time")


async def test_an_intact_log_is_verified_with_every_seal_of_every_lane(
    federation: Federation, top: LiveController
) -> None:
    zone = await federation.start_below(top, "edge-zone-a1-control", "edge-zone-a1")
    for number in range(5):
        await audit(zone, number, "edge-zone-a1")
        await zone.write(
            Key("edge-zone-a1", "policies/p", "policy"), policy_pb2.PolicySpec(version=str(number))
        )
    await top.receive_from(zone)
    steps = await verified(top, all_lanes=True)
    assert steps[0].progress.commits_total == top.state.next_offset
    streams = [s.stream for s in steps if s.WhichOneof("step") == "stream"]
    assert len(streams) == len(top.state.streams)
    assert all(s.intact and s.seals and not s.fault for s in streams)
    own = next(s for s in streams if s.controller == zone.name and s.lane == "audit")
    assert (own.events, own.seals) == (5, 5)
    summary = steps[-1].summary
    assert (summary.streams, summary.faulty_streams) == (len(streams), 0)
    assert summary.head_hash == (await top.replica.log.head()).hash.hex()
    one_lane = await verified(top, domain="edge-zone-a1")
    assert {s.stream.lane for s in one_lane if s.WhichOneof("step") == "stream"} == {"audit"}


@pytest.mark.parametrize("place", ["first", "middle", "last"])
async def test_a_byte_changed_in_the_stored_log_is_found_and_named(
    top: LiveController, place: str
) -> None:
    for number in range(8):
        await audit(top, number, message="nothing to see here")
    end = top.state.next_offset
    offset = {"first": end - 8, "middle": end - 4, "last": end - 1}[place]
    edit_commit(top, offset, lambda b: b.replace(b"nothing to see", b"nothing to sEe"))
    steps = await verified(top)
    found = faults(steps)
    assert set(found) == {"audit", "log"}
    assert f"(commit {offset})" in found["audit"]
    assert f"before offset {offset + 1} " in found["log"]
    assert steps[-1].summary.faulty_streams == 2


async def test_a_byte_changed_outside_all_events_is_found_by_the_logs_own_chain(
    top: LiveController,
) -> None:
    for number in range(3):
        await audit(top, number)
    edit_commit(top, top.state.next_offset - 2, lambda b: b.replace(b"r1", b"r2"))
    steps = await verified(top, all_lanes=True)
    assert set(faults(steps)) == {"log"}


async def test_a_forged_history_with_hashes_made_right_is_found_by_its_seals(
    top: LiveController,
) -> None:
    await audit(top, 1, message="alice did it")
    with closing(sqlite3.connect(top.log_path)) as connection, connection:
        offset = top.state.next_offset - 1
        [stored] = connection.execute(
            "SELECT stored FROM commits WHERE log_offset = ?", (offset,)
        ).fetchone()
        commit = event_pb2.Commit.FromString(stored[32:])
        run = commit.runs[-1]
        event = event_pb2.Event.FromString(run.events[0])
        event.audit.message = "bob did it"
        run.events[0] = event.SerializeToString()
        before = await hash_of_stream_before(top, run)
        run.seal.chain_hash = extend(before, run.events)
        forged = commit.SerializeToString()
        [head_bytes] = connection.execute("SELECT head FROM log").fetchone()
        head = decode_head(head_bytes)
        head = type(head)(head.next_offset, hash_after(stored[:32], forged), head.nonce)
        connection.execute(
            "UPDATE commits SET stored = ? WHERE log_offset = ?",
            (encode_commit(stored[:32], forged), offset),
        )
        connection.execute("UPDATE log SET head = ?", (encode_head(head),))
    found = faults(await verified(top))
    assert set(found) == {"audit"}
    assert "the seal is not good" in found["audit"]


async def hash_of_stream_before(top: LiveController, run: Any) -> bytes:
    """The chain hash of a run's stream before the run."""
    chain_hash = chain_start(stream_from_message(run.stream))
    for commit in await top.replica.read_commits(0, 1 << 20):
        for other in commit.runs:
            if other.stream == run.stream and other.first_sequence < run.first_sequence:
                chain_hash = extend(chain_hash, other.events)
    return chain_hash


async def test_commits_taken_out_are_missed(top: LiveController) -> None:
    for number in range(4):
        await audit(top, number)
    with closing(sqlite3.connect(top.log_path)) as connection, connection:
        gone = top.state.next_offset - 2
        connection.execute("DELETE FROM commits WHERE log_offset = ?", (gone,))
    found = faults(await verified(top))
    assert f"commit {gone} cannot be read" in found["log"]
    assert "could not be read from the log" in found["audit"]


async def test_verifications_are_bounded_in_number(
    top: LiveController, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.services.audit.MAX_VERIFICATIONS", 1)
    request = service.VerifyAuditRequest()
    async with aclosing(top.audit.VerifyAudit(request, as_caller())) as running:  # type: ignore[type-var]
        await anext(running)
        with pytest.raises(ServiceError, match="run already"):
            await verified(top)
    assert (await verified(top))[-1].HasField("summary")
