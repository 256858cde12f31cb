"""Every metric of a controller: name, unit, meaning, and what it is told apart by. Names follow OpenTelemetry's
semantic conventions where there are some; docs/telemetry.md holds the same table. Cardinality is that of methods,
domains and peers: no attribute ever names a node.
"""

from __future__ import annotations

from telemetry.instruments import Metric

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
BYTES = (512.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0)
COUNTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)

RPC_DURATION = Metric(
    "rpc.server.call.duration",
    "histogram",
    "s",
    "Duration of calls, of streams until their end",
    ("rpc.system.name", "rpc.method", "rpc.response.status_code"),
    SECONDS,
)
RPC_REFUSALS = Metric(
    "souverix.rpc.refusals", "counter", "{call}", "Calls refused, by reason", ("error.type",)
)
COMMIT_DURATION = Metric(
    "souverix.log.commit.duration",
    "histogram",
    "s",
    "Time until an append to the log is durable",
    (),
    SECONDS,
)
COMMIT_SIZE = Metric("souverix.log.commit.size", "histogram", "By", "Size of a commit", (), BYTES)
COMMIT_REQUESTS = Metric(
    "souverix.log.commit.requests",
    "histogram",
    "{request}",
    "Requests that shared a commit",
    (),
    COUNTS,
)
LOG_COMMITS = Metric("souverix.log.commits", "gauge", "{commit}", "Commits in the log")
LOG_STORE_SIZE = Metric(
    "souverix.log.store.size",
    "gauge",
    "By",
    "Size of the file that holds the newer part of the log, by what is used and what is free in it",
    ("souverix.log.store.state",),
)
LOG_ARCHIVE_SIZE = Metric(
    "souverix.log.archive.size", "gauge", "By", "Size of the archive of the log on disk"
)
LOG_UNARCHIVED = Metric(
    "souverix.log.unarchived", "gauge", "{commit}", "Commits that the archive does not hold yet"
)
QUEUE_DEPTH = Metric(
    "souverix.log.queue.depth", "gauge", "{request}", "Requests that wait for a commit"
)
STREAMS = Metric("souverix.streams", "gauge", "{stream}", "Streams of events known here")
SYNC_SESSIONS = Metric(
    "souverix.sync.sessions", "gauge", "{session}", "Sync sessions that stand", ("souverix.peer",)
)
SYNC_DEBT = Metric(
    "souverix.sync.debt", "gauge", "s", "How far a peer is behind", ("souverix.peer",)
)
SYNC_BACKLOG = Metric(
    "souverix.sync.backlog",
    "gauge",
    "{event}",
    "Events a peer has not acknowledged, by kind",
    ("souverix.peer", "souverix.backlog.kind"),
)
NODE_LINKS = Metric("souverix.node.links", "gauge", "{link}", "Agents linked to this replica")
NODE_MODES = Metric(
    "souverix.node.count",
    "gauge",
    "{node}",
    "Nodes by connectivity mode, as recorded",
    ("souverix.domain", "souverix.connectivity.mode"),
)
NODE_DRIFT = Metric(
    "souverix.node.drift",
    "gauge",
    "{node}",
    "Nodes by state of their drift",
    ("souverix.domain", "souverix.drift.state"),
)
CONFLICTS_OPEN = Metric(
    "souverix.conflicts.open", "gauge", "{conflict}", "Keys whose siblings stand side by side"
)
MASTERSHIP = Metric(
    "souverix.mastership.held", "gauge", "1", "1 while this replica is the master, else 0"
)
FENCING_TOKEN = Metric(
    "souverix.mastership.fencing_token",
    "gauge",
    "1",
    "Token of the mastership held; 0 on a standby",
)
LOOP_LAG = Metric(
    "souverix.event_loop.lag",
    "gauge",
    "s",
    "By how much the event loop was late, at worst since it was told last",
)
MEMORY = Metric("process.memory.usage", "gauge", "By", "Resident memory of the process")

METRICS = (
    RPC_DURATION,
    RPC_REFUSALS,
    COMMIT_DURATION,
    COMMIT_SIZE,
    COMMIT_REQUESTS,
    LOG_COMMITS,
    LOG_STORE_SIZE,
    LOG_ARCHIVE_SIZE,
    LOG_UNARCHIVED,
    QUEUE_DEPTH,
    STREAMS,
    SYNC_SESSIONS,
    SYNC_DEBT,
    SYNC_BACKLOG,
    NODE_LINKS,
    NODE_MODES,
    NODE_DRIFT,
    CONFLICTS_OPEN,
    MASTERSHIP,
    FENCING_TOKEN,
    LOOP_LAG,
    MEMORY,
)
