"""One replica of a controller: its state, its part in the mastership, its life. Owns the order open → prove → replay
→ follow → campaign → write; never serves a call itself.

Assumptions. The lease only says who should write; every append is fenced by the log, so a paused master that wakes
cannot write. A standby's state is what the log holds, some milliseconds late.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import islice
from pathlib import Path
from typing import Any

from controller.archive.storage import LogStorage
from controller.changes import Changes
from controller.config import ControllerConfig
from controller.connectivity.table import ConnectivityTable
from controller.durability import Durability
from controller.gate import Gate
from controller.journal import Journal, JournalClosed
from controller.log.errors import LogError, LogUnavailable
from controller.log.port import EMPTY_HASH, Head, Log, MastershipLease, hash_after
from controller.log.witness import Continuity, Witness, WitnessFile, check_continuity
from controller.outdated import StateOutdated
from controller.query.live import LiveColumns
from controller.revocation.entries import Revocations
from controller.revocation.knocks import Knocks
from controller.signing import Ed25519Signer, Ed25519Verifier
from controller.signing_keys import SigningKeys
from controller.store.store import Store
from controller.tasks import end, finish
from controller.twin.history import Histories
from controller.twin.sight import Sight
from controller.writes import Forwarder, Writer
from federation.barred import why_barred
from federation.bounds import Foreknown
from federation.identifiers import Origin
from federation.proposal import Identity
from federation.state import Applied, State
from souverix.event.v1 import event_pb2
from telemetry.started import OFF, Telemetry
from trust.files import ReloadedCredentials

_log = logging.getLogger(__name__)

Duty = Callable[[Journal], Awaitable[None]]

#: Bytes read from the log at once in replay: some hundred commits, or four of the largest.
REPLAY_READ_BYTES = 4 * 1024 * 1024

#: Commits kept parsed for sync sessions that are level: at 1,000 commits a second over a second of lag.
MAX_RECENT_COMMITS = 1024

#: Of them, bytes at most: a backlog's commits are large.
MAX_RECENT_BYTES = 32 * 1024 * 1024

#: Interval between witnesses: each is an fsync, and a rewind is measured in more than a second of writes.
WITNESS_INTERVAL_S = 1.0

#: Wait before campaigning anew after a failure, so that a log that is down is not asked in a busy loop.
RETRY_S = 0.5


class Replica:
    """A replica. `run` is its life; services read `state` and write through `writer` and `journal()`.

    With `foreknown` it gives up what it kept beside the log, and folds the log from its beginning.
    """

    def __init__(
        self,
        config: ControllerConfig,
        log: Log,
        signer: Ed25519Signer | SigningKeys,
        forwarder: Forwarder,
        telemetry: Telemetry = OFF,
        credentials: ReloadedCredentials | None = None,
        foreknown: Foreknown | None = None,
    ) -> None:
        self.config = config
        #: What this controller shows and trusts by TLS; None without.
        self.credentials = credentials
        self.telemetry = telemetry
        self.signer = signer if isinstance(signer, SigningKeys) else SigningKeys(signer)
        self.verifier = Ed25519Verifier()
        self.state = State(
            config.controller.id,
            self.verifier,
            bytes.fromhex(config.trust.root_public_key),
            foreknown,
        )
        self._folds_anew = foreknown is not None
        self.changes = Changes()
        #: Who may call what.
        self.gate = Gate(
            self.state,
            config.controller.domain,
            config.access.admins,
            enforced=config.access_enforced,
        )
        #: Which certificates count no more, and who shows one all the same.
        self.revocations = Revocations(self.state, _wall_ms)
        self.knocks = Knocks(_wall_ms)
        #: What is measured of the links of nodes; empty on a standby.
        self.connectivity = ConnectivityTable(
            config.connectivity.of_all(), config.connectivity.of_domains()
        )
        #: What nodes went through; follows the log.
        self.histories = Histories(self.state)
        #: What is kept beside the log.
        self.store = Store(config.controller.data_dir / "store.sqlite", self.state, self.histories)
        #: All nodes in columns, for lists, filters and counts; follow the log.
        self.nodes = LiveColumns(self.state, self.changes)
        self.store.summarise(self.nodes)
        self._forwarder = forwarder
        self.durability = Durability()
        self.log = log
        self.writer = Writer(
            self.state,
            self.journal,
            self.durability,
            forwarder,
            config.controller.domain,
            telemetry.tracer,
            self.gate,
        )
        #: Names the log; known once it is open.
        self.log_nonce = b""
        #: Bytes of the commits that were applied since the start.
        self.applied_bytes = 0
        #: What the log takes on disk, as last looked at; None: not looked at.
        self.log_storage: LogStorage | None = None
        self._incarnation = 1
        self._journal: Journal | None = None
        self._lease: MastershipLease | None = None
        self._duties: list[Duty] = []
        #: Of them, those that run also while nothing may be sealed here.
        self._patient: list[Duty] = []
        #: Set when this controller may seal after it could not.
        self._unbarred = asyncio.Event()
        self._recent: deque[tuple[event_pb2.Commit, int]] = deque()
        self._recent_bytes = 0
        #: The log's, after the last commit that was applied.
        self._log_hash = EMPTY_HASH
        self._witness = WitnessFile(config.controller.data_dir / "witness.json")
        self._replayed = asyncio.Event()

    # What services use.

    def journal(self) -> Journal:
        """The journal. Raises `JournalClosed` on a standby."""
        if self._journal is None:
            raise JournalClosed(
                f"replica {self.config.controller.replica} of {self.config.controller.id} is not the master; "
                "ask the other addresses of this controller"
            )
        return self._journal

    @property
    def is_master(self) -> bool:
        """Tells whether this replica may write now, as far as it knows."""
        return self._journal is not None and self.lease_valid()

    async def replayed(self) -> None:
        """Waits until the log was read to its end once, so that reads are worth answering."""
        await self._replayed.wait()

    @property
    def incarnation(self) -> int:
        """Incarnation of this controller's own streams."""
        return self._incarnation

    def sight(self, now_s: float) -> Sight | None:
        """What this replica sees beside its log, at a monotonic time; None on a standby, which holds no links."""
        return Sight(self.connectivity, self._forwarder, now_s) if self.is_master else None

    def lease_valid(self) -> bool:
        """Tells whether the mastership lease still stands by this machine's clock."""
        return self._lease is not None and self._lease.valid

    @property
    def barred(self) -> str:
        """Why this controller may seal nothing now; empty when it may."""
        identity = self.config.controller
        origin = Origin(identity.id, self._incarnation)
        return why_barred(self.state, origin, identity.domain, self.signer.key_id)

    def add_duty(self, duty: Duty, *, patient: bool = False) -> None:
        """Registers what runs while this replica is master; it is cancelled when that ends. A patient one runs also
        while the master may seal nothing: it takes in what others wrote.

        Raises `ValueError` for a duty registered twice: two of it would undo each other's work.
        """
        if duty in self._duties:
            raise ValueError(f"{duty} is registered already")
        self._duties.append(duty)
        if patient:
            self._patient.append(duty)

    async def read_commits(
        self, first_offset: int, max_bytes: int, *, control_only: bool = False
    ) -> list[event_pb2.Commit]:
        """Consecutive commits from an offset, from memory where they are recent; empty at the end. Commits without
        events of the control lane may be left out where only these count.
        """
        if self._recent and first_offset >= self._recent[0][0].offset:
            found, size = [], 0
            for commit, bytes_ in islice(
                self._recent, first_offset - self._recent[0][0].offset, None
            ):
                found.append(commit)
                size += bytes_
                if size >= max_bytes:
                    break
            return found
        if first_offset >= self.state.next_offset:
            return []
        commits = await self.log.read(first_offset, max_bytes)
        if control_only and commits:
            control = self.state.control_offsets_within(commits[0][0], commits[-1][0])
            return [event_pb2.Commit.FromString(data) for at, data in commits if at in control]
        return [event_pb2.Commit.FromString(data) for _, data in commits]

    # Its life.

    async def run(self) -> None:
        """Lives until cancelled. Raises `LogError` when an operator must act on the log, `StoreError`, `StateOutdated`
        when another replica is to take its place that folds the log anew.
        """
        try:
            await self._open()
            await self._live()
        finally:
            await finish(self.store.close())

    async def _live(self) -> None:
        witness = asyncio.create_task(self._keep_witness(), name="witness")
        nodes = asyncio.create_task(self.nodes.run(), name="nodes")
        try:
            while True:
                lease = await self._stand_by()
                try:
                    await self._be_master(lease)
                finally:
                    with contextlib.suppress(LogError):
                        await lease.release()
        finally:
            await end(witness, nodes)

    async def _open(self) -> None:
        self.config.controller.data_dir.mkdir(parents=True, exist_ok=True)
        self.log_nonce = (await self.log.open(os.urandom(16))).nonce
        continuity = Continuity.SAME
        witness = await asyncio.to_thread(self._witness.load)
        if witness is not None:
            continuity = await check_continuity(witness, self.log)
        cut = await self.store.open(self.log_nonce, self.log.hash_before, anew=self._folds_anew)
        if cut is not None:
            self._log_hash = cut.log_hash
            await self.nodes.restore(self.store.summaries())
        await self._replay()
        if not self.state.grounds.stand:
            raise StateOutdated(self.state.grounds.to_foreknow())
        self._incarnation = self._choose_incarnation(continuity)
        self.follow_keys()
        self._replayed.set()
        _log.info(
            "log is open",
            extra={
                "commits": self.state.next_offset,
                "incarnation": self._incarnation,
                "continuity": continuity.name,
            },
        )

    def _choose_incarnation(self, continuity: Continuity) -> int:
        """The incarnation to write under; a log that was set back or exchanged begins a new one (design §4)."""
        path = self.config.controller.data_dir / "incarnation.json"
        stored = json.loads(path.read_text())["incarnation"] if path.exists() else 0
        sealed = self.state.grounds.bounds.sealed_incarnation(self.config.controller.id)
        highest = max(stored, self.state.own_incarnation(), sealed + 1)
        chosen: int = highest if continuity is Continuity.SAME else highest + 1
        if chosen != stored:
            _replace(path, json.dumps({"incarnation": chosen}))
        return chosen

    async def _replay(self) -> None:
        while commits := await self.log.read(self.state.next_offset, REPLAY_READ_BYTES):
            for offset, data in commits:
                self._apply(offset, data)
            await asyncio.sleep(0)
            await self.store.relieve()

    def _apply(self, offset: int, data: bytes) -> None:
        commit = event_pb2.Commit.FromString(data)
        applied = self.state.apply(offset, commit)
        outdated = self._applied(applied, commit, len(data), hash_after(self._log_hash, data))
        if outdated is not None:
            raise outdated

    def _applied(
        self, applied: Applied, commit: event_pb2.Commit, size: int, log_hash: bytes
    ) -> StateOutdated | None:
        """Tells the others of a commit. What it returns is to be raised, once callers are answered."""
        self._log_hash = log_hash
        self.applied_bytes += size
        self._recent.append((commit, size))
        self._recent_bytes += size
        while len(self._recent) > MAX_RECENT_COMMITS or (
            self._recent_bytes > MAX_RECENT_BYTES and len(self._recent) > 1
        ):
            self._recent_bytes -= self._recent.popleft()[1]
        self.gate.note(applied)
        self.revocations.note(applied)
        self.histories.take_note(applied)
        self.store.take_note(applied, log_hash)
        self.changes.publish(applied)
        if applied.authority_changed and self._replayed.is_set():
            return self._follow_bounds()
        return None

    def _follow_bounds(self) -> StateOutdated | None:
        """Control facts changed: which key seals here, and whether what is in effect still rests on something."""
        sealed = self.state.grounds.bounds.sealed_incarnation(self.config.controller.id)
        own = sealed >= self._incarnation
        if self.state.grounds.outdated or own:
            _log.warning(
                "a seal or a key voids what is in effect here; the log is folded anew",
                extra={"outdated": self.state.grounds.outdated},
            )
            foreknown = None if self.state.grounds.stand else self.state.grounds.to_foreknow()
            return StateOutdated(foreknown, own=own)
        self.follow_keys()
        return None

    def follow_keys(self) -> None:
        """Goes over to the signing key that the log says is in force, if this replica has it."""
        identity = self.config.controller
        origin = Origin(identity.id, self._incarnation)
        self.signer.follow(self.state, origin, identity.domain)
        if not self.barred:
            self._unbarred.set()

    async def _stand_by(self) -> MastershipLease:
        """Follows the log and campaigns, until this replica is elected and has read all that was written."""
        address = self.config.listen.address
        follower = asyncio.create_task(self._follow(), name="follow")
        campaign = asyncio.create_task(
            self.log.campaign(
                f"{self.config.controller.replica}@{address}", self.config.log.lease_ttl_s
            ),
            name="campaign",
        )
        try:
            await asyncio.wait({follower, campaign}, return_when=asyncio.FIRST_COMPLETED)
            if not follower.done():
                return campaign.result()
            follower.result()
            raise RuntimeError("following the log ended by itself")
        except BaseException:
            await self._withdraw(campaign)
            raise
        finally:
            await end(follower)

    async def _withdraw(self, campaign: asyncio.Task[MastershipLease]) -> None:
        """Ends a campaign that nobody waits for any more; a mastership won meanwhile is given up."""
        await end(campaign)
        if not campaign.cancelled() and campaign.exception() is None:
            with contextlib.suppress(LogError):
                await campaign.result().release()

    async def _follow(self) -> None:
        async with contextlib.aclosing(self.log.follow(self.state.next_offset)) as pages:
            async for commits in pages:
                for offset, data in commits:
                    self._apply(offset, data)
                await self.store.relieve()

    async def _be_master(self, lease: MastershipLease) -> None:
        """Writes until the lease is lost or the journal fails."""
        try:
            head = await self.log.head()
            while self.state.next_offset < head.next_offset:
                await self._replay()
        except LogUnavailable as error:
            _log.warning("cannot read the log after the election", extra={"error": str(error)})
            await asyncio.sleep(RETRY_S)
            return
        # Another replica may have begun a new incarnation since this one opened the log.
        self._incarnation = max(self._incarnation, self.state.own_incarnation())
        self.follow_keys()
        identity = Identity(
            self.config.controller.id, self.config.controller.domain, self._incarnation
        )
        self._lease = lease
        journal = Journal(
            self.log,
            lease.mastership,
            head,
            self.state,
            identity,
            self.signer,
            self.config.controller.replica,
            lambda applied, commit, size: self._applied(applied, commit, size, journal.head.hash),
            self.telemetry,
        )
        self._journal = journal
        _log.info("mastership is held", extra={"fencing_token": journal.fencing_token})
        barred = self.barred
        duties = self._duties
        if barred:
            duties = self._patient
            self._unbarred.clear()
            _log.error(
                "nothing can be written: the signing key is not in force", extra={"reason": barred}
            )
        tasks: list[asyncio.Future[Any]] = [
            asyncio.create_task(_as_coroutine(duty, journal)) for duty in duties
        ]
        lost = asyncio.create_task(lease.lost())
        unbarred = asyncio.create_task(self._unbarred.wait()) if barred else lost
        ends: list[asyncio.Future[Any]] = [lost, unbarred, journal.failed]
        try:
            await asyncio.wait([*tasks, *ends], return_when=asyncio.FIRST_COMPLETED)
            if journal.failed.done():
                _log.warning("the journal ended", extra={"reason": str(journal.failed.result())})
            elif not (lost.done() or unbarred.done()):
                for task in tasks:
                    if task.done():
                        task.result()
                        raise RuntimeError("a duty of the master ended by itself")
        finally:
            self._journal = None
            self._lease = None
            await journal.close()
            await end(*tasks, lost, unbarred)
            _log.warning("mastership has ended")

    async def _keep_witness(self) -> None:
        """Keeps the witness on master and standby alike: whichever is elected after a restore must notice it."""
        stored = -1
        while True:
            await asyncio.sleep(WITNESS_INTERVAL_S)
            if self.state.next_offset == stored:
                continue
            try:
                head = await self._known_head()
                await asyncio.to_thread(self._witness.store, Witness(self.log.identity, head))
                stored = head.next_offset
            except (OSError, LogError, IndexError) as error:
                _log.error("the witness of the log was not stored", extra={"error": str(error)})

    async def _known_head(self) -> Head:
        """The head as far as this replica has read the log."""
        if self._journal is not None:
            return self._journal.head
        next_offset = self.state.next_offset
        return Head(next_offset, await self.log.hash_before(next_offset), self.log_nonce)


async def _as_coroutine(duty: Duty, journal: Journal) -> None:
    await duty(journal)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _replace(path: Path, text: str) -> None:
    """Replaces a small file so that a crash leaves the old or the new one."""
    fresh = path.with_suffix(".new")
    with fresh.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
