"""Step: the master of region a is killed while clients write; the second replica takes over. Owns that step."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

from deploy.demo.client import Client
from deploy.demo.display import duration
from deploy.demo.questions import audit_of, document_of, peers_of, policy_at, status_of
from deploy.demo.roles import DOMAIN_ADMIN, give_role
from deploy.demo.stage import (
    GLOBAL,
    REGION_A,
    WAIT_S,
    Seen,
    Stage,
    expect,
    new_request_id,
)
from souverix.federation.v1 import federation_service_pb2
from souverix.policy.v1 import policy_pb2, policy_service_pb2

#: Clients that write at the same time, each its own policy.
WRITERS = 4

#: Writes each client has acknowledged before the master is killed, and after the other took over.
WRITES_BEFORE = 25
WRITES_AFTER = 25

#: Pause of a client between two writes: writes go on all the time, and the log stays readable.
WRITE_PACE_S = 0.01

#: Nodes that carry it: none, so that these policies govern nothing.
TAG = "nobody"


@dataclass(slots=True)
class Writer:
    """A client that counts in a policy: each write takes the etag of the one before, so that a write that was lost
    or done twice would stop it.
    """

    client: Client
    policy: str
    acknowledged: list[str] = field(default_factory=list)
    stopping: bool = False
    last_acknowledged_s: float = 0.0
    #: Longest time between two acknowledgements.
    longest_gap_s: float = 0.0

    @property
    def name(self) -> str:
        """Resource name of its policy."""
        return f"domains/{REGION_A}/policies/{self.policy}"

    async def run(self) -> None:
        """Writes until told to stop. Raises `Refused` when a write is refused."""
        created = await self.client.call(
            policy_service_pb2.CreatePolicyRequest(
                domain=REGION_A,
                policy_id=self.policy,
                spec=_count(0),
                request_id=new_request_id(self.policy),
            ),
            policy_service_pb2.CreatePolicyResponse,
        )
        etag = created.policy.etag
        while not self.stopping:
            request_id = new_request_id(self.policy)
            reply = await self.client.call(
                policy_service_pb2.UpdatePolicyRequest(
                    name=self.name,
                    spec=_count(len(self.acknowledged) + 1),
                    etag=etag,
                    request_id=request_id,
                ),
                policy_service_pb2.UpdatePolicyResponse,
            )
            etag = reply.policy.etag
            self._acknowledge(request_id)
            await asyncio.sleep(WRITE_PACE_S)

    def _acknowledge(self, request_id: str) -> None:
        now_s = time.monotonic()
        if self.last_acknowledged_s:
            self.longest_gap_s = max(self.longest_gap_s, now_s - self.last_acknowledged_s)
        self.last_acknowledged_s = now_s
        self.acknowledged.append(request_id)


async def kill_the_master(stage: Stage) -> str:
    """Kills the master under writes, and looks for every acknowledged write afterwards."""
    names = [f"counter-{number}" for number in range(1, WRITERS + 1)]
    writers = [
        Writer(stage.client(REGION_A, f"user:writer-{number}"), name)
        for number, name in enumerate(names, 1)
    ]
    people = [writer.client.principal for writer in writers]
    await give_role(stage.client(REGION_A), REGION_A, DOMAIN_ADMIN, people, "writers of the story")
    tasks = [asyncio.create_task(writer.run(), name=writer.policy) for writer in writers]
    try:
        took_over_s = await _kill_under_writes(stage, writers, tasks)
    finally:
        for writer in writers:
            writer.stopping = True
        ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), WAIT_S)
    for end in ends:
        if isinstance(end, BaseException):
            raise end
    total = sum(len(writer.acknowledged) for writer in writers)
    await _check_nothing_lost(stage, writers)
    stage.display.happened(
        f"{total} acknowledged writes, {sum(w.client.repeats for w in writers)} calls repeated: "
        "each is found once, none is lost"
    )
    await _back_to_two(stage)
    await _remove(stage, names)
    return f"taken over after {duration(took_over_s)}; {total} writes, none lost, none twice"


async def _kill_under_writes(
    stage: Stage, writers: list[Writer], tasks: list[asyncio.Task[None]]
) -> float:
    """The seconds from the kill to the first write acknowledged by the other replica."""
    await stage.until("writes", lambda: _acknowledged(writers, tasks, WRITES_BEFORE))
    master = (await stage.until("the master of region a", lambda: _master(stage)))[0]
    stage.display.happened(f"{WRITERS} clients write; the master is replica r{master}")
    federation = stage.federation
    process = federation.processes.pop(f"{REGION_A}/r{master}")
    killed_s = time.monotonic()
    process.kill()
    stage.display.happened(f"kill -9 {process.pid}, in the middle of the writes")
    successor = 3 - master
    await stage.until("the other replica takes over", lambda: _is_master(stage, successor))
    seen = [len(writer.acknowledged) for writer in writers]
    wanted = max(seen) + WRITES_AFTER
    await stage.until("writes", lambda: _acknowledged(writers, tasks, wanted))
    gap_s = max(writer.longest_gap_s for writer in writers)
    stage.display.happened(
        f"r{successor} has taken over; no client waited longer than {duration(gap_s)} for an answer",
        time.monotonic() - killed_s,
    )
    federation.start_controller(REGION_A, master)
    stage.remember_processes()
    return gap_s


async def _acknowledged(
    writers: list[Writer], tasks: list[asyncio.Task[None]], wanted: int
) -> Seen[bool]:
    for task in tasks:
        if task.done():
            task.result()
    least = min(len(writer.acknowledged) for writer in writers)
    total = sum(len(writer.acknowledged) for writer in writers)
    return Seen(f"{total} writes acknowledged", True if least >= wanted else None)


async def _master(stage: Stage) -> Seen[int]:
    for number in (1, 2):
        if (await status_of(stage.replica(REGION_A, number))).master:
            return Seen(f"r{number}", number)
    return Seen("no replica is master")


async def _is_master(stage: Stage, number: int) -> Seen[bool]:
    status = await status_of(stage.replica(REGION_A, number))
    return Seen(f"r{number} waits until the lease of the dead master ends", status.master or None)


async def _check_nothing_lost(stage: Stage, writers: list[Writer]) -> None:
    """Compares what clients hold as acknowledged with the values and the audit of the region, then with global."""
    for writer in writers:
        count = len(writer.acknowledged)
        policy = await policy_at(stage.client(REGION_A), writer.name)
        value = int(document_of(policy.spec.configuration)["count"])
        expect(value == count, f"{writer.name} is {value}; {count} writes were acknowledged")
        records = await audit_of(stage.client(REGION_A), REGION_A, writer.name)
        found = Counter(record.request_id for record in records)
        lost = [request for request in writer.acknowledged if not found[request]]
        twice = [request for request in writer.acknowledged if found[request] > 1]
        expect(not lost, f"{writer.name}: {len(lost)} acknowledged writes are lost: {lost[:3]}")
        expect(not twice, f"{writer.name}: {len(twice)} writes were done twice: {twice[:3]}")

    async def at_global() -> Seen[bool]:
        level = 0
        for writer in writers:
            policy = await policy_at(stage.client(GLOBAL), writer.name)
            level += policy.spec.configuration["count"] == len(writer.acknowledged)
        return Seen(f"{level}/{WRITERS} level at {GLOBAL}", True if level == WRITERS else None)

    _, took_s = await stage.until(f"the writes at {GLOBAL}", at_global)
    stage.display.happened(f"{GLOBAL} has them all", took_s)


async def _back_to_two(stage: Stage) -> None:
    """Waits until the killed replica follows again, and every child of the region is linked to the new master."""

    async def standing() -> Seen[bool]:
        statuses = [await status_of(stage.replica(REGION_A, number)) for number in (1, 2)]
        links = (await peers_of(stage.client(REGION_A))).values()
        live = sum(peer.state == federation_service_pb2.PEER_STATE_LIVE for peer in links)
        masters = sum(status.master for status in statuses)
        done = masters == 1 and live == len(links)
        return Seen(f"{live}/{len(links)} links of {REGION_A} live", done or None)

    _, took_s = await stage.until("the region is whole again", standing)
    stage.display.happened(
        "the killed replica is back as standby, zones and global are linked", took_s
    )


async def _remove(stage: Stage, names: list[str]) -> None:
    """The counters have served; whoever tries the federation afterwards need not see them."""
    client = stage.client(REGION_A)
    for name in names:
        await client.call(
            policy_service_pb2.DeletePolicyRequest(
                name=f"domains/{REGION_A}/policies/{name}", request_id=new_request_id("remove")
            ),
            policy_service_pb2.DeletePolicyResponse,
        )


def _count(number: int) -> policy_pb2.PolicySpec:
    spec = policy_pb2.PolicySpec(display_name="A counter", tags=[TAG])
    spec.configuration["count"] = number
    return spec
