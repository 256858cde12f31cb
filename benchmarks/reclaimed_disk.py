"""What is left on disk once others have it: of a zone's log when its controller has compacted it, of an agent's backlog
when its controller has acknowledged it. Owns how both come about and are measured; judges nothing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks.cut_off_zone import ZONE, start_zone
from benchmarks.report import say
from benchmarks.workload import actual_state
from controller.archive.segment import SEGMENT_BYTES, SEGMENT_COMMITS
from deploy.local_federation import LocalFederation
from nodeagent.backlog import MAX_REPORTS, Backlog
from nodeagent.identity import Identity
from nodeagent.statedir import StateDir, open_to_read
from souverix.federation.v1 import federation_service_pb2 as service
from souverix.federation.v1.federation_service_pb2_grpc import FederationServiceStub
from souverix.nodelink.v1 import nodelink_pb2

NODE = "returning"

#: Archiving gives way to all else: some 10 MB/s.
COMPACTION_TIMEOUT_S = 300.0
REPLAY_TIMEOUT_S = 120.0
POLL_S = 0.5

#: Characters of the agent's log that are told when it fails.
LAST_WORDS = 2_000


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """Bytes on disk before and after."""

    before: int
    after: int

    def mib(self) -> list[float]:
        """Both, for people."""
        return [round(self.before / (1 << 20), 1), round(self.after / (1 << 20), 1)]


@dataclass(frozen=True, slots=True)
class ReclaimedLog:
    """A zone's log: its etcd's directory, of which the file of the log, and the archive."""

    directory: Reclaimed
    file: Reclaimed
    archive_bytes: int
    archived_commit_bytes: int
    took_s: float


def compact_zone(federation: LocalFederation) -> ReclaimedLog:
    """Starts the zone, whose etcd is its own, on its long log, and waits until that is compacted."""
    etcd = federation.data_dir(ZONE) / "etcd"
    file = etcd / "data" / "member" / "snap" / "db"
    directory_before, file_before = bytes_on_disk(etcd), bytes_on_disk(file)
    start_zone(federation)
    began_s = time.perf_counter()
    with grpc.insecure_channel(federation.address(ZONE)) as channel:
        stub = FederationServiceStub(channel)
        _until(lambda: _is_compacted(stub), COMPACTION_TIMEOUT_S, "the zone's log is not compacted")
        held = stub.GetStatus(service.GetStatusRequest()).log_storage
    return ReclaimedLog(
        Reclaimed(directory_before, bytes_on_disk(etcd)),
        Reclaimed(file_before, bytes_on_disk(file)),
        held.archive_bytes,
        held.archived_commit_bytes,
        time.perf_counter() - began_s,
    )


def drain_agent(federation: LocalFederation) -> Reclaimed:
    """A node of the zone returns with a full backlog; what its agent's directory takes before and when it is level."""
    directory = federation.directory / f"agent-{NODE}"
    state = StateDir.open(directory)
    backlog = Backlog(state.database, Identity(state.database, NODE))
    chance = random.Random(1)
    with state.database.transaction():
        for number in range(MAX_REPORTS):
            body = actual_state(chance, number)
            report = nodelink_pb2.Report(time=body.report_time, actual_state=body)
            backlog.append(report, {})
    state.close()
    before = bytes_on_disk(directory)
    agent = federation.start_agent(ZONE, NODE)
    try:
        _until(
            lambda: _waiting(directory) == 0, REPLAY_TIMEOUT_S, "the agent's backlog is not taken"
        )
    except TimeoutError:
        say(agent.log_path.read_text()[-LAST_WORDS:])
        raise
    finally:
        agent.stop()
    return Reclaimed(before, bytes_on_disk(directory))


def bytes_on_disk(path: Path) -> int:
    """What a file, or all below a directory, takes in blocks."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_blocks * 512 for file in files if file.is_file())


def _is_compacted(stub: FederationServiceStub) -> bool:
    status = stub.GetStatus(service.GetStatusRequest())
    held = status.log_storage
    left = status.next_offset - held.archived_offset
    level = bool(held.start_offset) and left < SEGMENT_COMMITS
    # The file is made smaller last; what is free in it then is what the log takes in again first.
    is_small: bool = held.store_free_bytes < max(SEGMENT_BYTES, held.store_bytes // 2)
    return level and is_small


def _waiting(directory: Path) -> int:
    database = open_to_read(directory)
    try:
        return database.number("SELECT COUNT(*) FROM report WHERE node = ?", NODE)
    finally:
        database.close()


def _until(condition: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
    end_s = time.perf_counter() + timeout_s
    while not condition():
        if time.perf_counter() > end_s:
            raise TimeoutError(otherwise)
        time.sleep(POLL_S)


def tell(log: ReclaimedLog, agent: Reclaimed) -> None:
    """Says both in words."""
    directory, file = log.directory.mib(), log.file.mib()
    say(
        f"disk: the zone's etcd {directory[0]} MiB before, {directory[1]} MiB after compaction (its file {file[0]} and "
        f"{file[1]} MiB), {log.archive_bytes / (1 << 20):.1f} MiB in the archive for "
        f"{log.archived_commit_bytes / (1 << 20):.1f} MiB of commits, in {log.took_s:.0f} s"
    )
    before, after = agent.mib()
    say(
        f"disk: an agent with {MAX_REPORTS} reports {before} MiB, {after} MiB once they are acknowledged"
    )
