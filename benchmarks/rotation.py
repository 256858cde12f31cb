"""Every certificate of a federation is replaced while writes go on at all levels; then streams are ended by revocation.

Global, region and zone by mutual TLS with roles enforced, and two nodes of the zone, one behind a relay. At each level
an operator creates policies at a constant rate, whatever becomes of those before. Meanwhile every controller, node,
relay and operator gets a new certificate; the run ends when all of them are in use. None of the writes may be refused,
and each must be at the root afterwards, or the benchmark fails. The same load for as long without a renewal is the
baseline. Authorities stay: another one is taken over by a configuration.

A revocation is measured from before the call until the end of the bearer's watch, told at the controller where the
stream stands, at the one above it, and at the one below it, which pass it on as they pass on any fact.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc

from benchmarks.constant_load import Load
from benchmarks.report import percentile, report, rounded, say
from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from souverix.fleet.v1 import connectivity_pb2, fleet_service_pb2
from souverix.fleet.v1.fleet_service_pb2_grpc import FleetServiceStub
from souverix.policy.v1 import policy_service_pb2
from souverix.policy.v1.policy_service_pb2_grpc import PolicyServiceStub
from souverix.trust.v1 import access_service_pb2, revocation_service_pb2, role_binding_pb2
from souverix.trust.v1.access_service_pb2_grpc import AccessServiceStub
from souverix.trust.v1.revocation_service_pb2_grpc import RevocationServiceStub
from trust.certificates import fingerprint
from trust.channels import open_channel, served_certificate
from trust.files import TrustFiles
from trust.identity import Kind

#: A run takes some ten seconds, and its baseline as long: agents look at their files every five.
RUNS = 3

#: Of each kind: told where the stream stands, above it, below it.
REVOCATIONS = 100

#: Until a renewed certificate is in use, a write is at the root, or a stream has ended: later it has failed.
TIMEOUT_S = 60.0

ROOT, REGION, ZONE = "global", "region-a", "edge-zone-a1"
LEVELS = (ROOT, REGION, ZONE)
RELAY, NODES = "relay-1", ("edge-7", "edge-8")
OPERATOR = "operator"

TREE = [
    DomainPlan(ROOT),
    DomainPlan(REGION, parent=ROOT, kind="region", level="regional"),
    DomainPlan(ZONE, parent=REGION),
]


def run() -> dict[str, Any]:
    """The 99th percentile of writes while certificates are replaced, in milliseconds; revocations beside it."""
    with tempfile.TemporaryDirectory(prefix="souverix-rotation-") as path:
        federation = LocalFederation(
            Path(path) / "federation", TREE, secured=True, admins=[f"user:{OPERATOR}"]
        )
        with federation:
            federation.start_all()
            federation.start_relay(ZONE, RELAY)
            federation.start_agent(ZONE, NODES[0])
            federation.start_agent(ZONE, NODES[1], server=federation.relay_address(RELAY))
            return asyncio.run(_measure(federation))


async def _measure(federation: LocalFederation) -> dict[str, Any]:
    await _until(lambda: _are_live(federation), "the nodes live")
    busy, idle, took_s, writes = [], [], [], 0
    for number in range(RUNS):
        rotating = await _one_run(federation, f"rotated-{number}", _rotate)
        took_s.append(rotating.lasted_s)

        async def pause(_: LocalFederation, __: Load, lasts_s: float = rotating.lasted_s) -> None:
            await asyncio.sleep(lasts_s)

        resting = await _one_run(federation, f"at-rest-{number}", pause)
        busy.append(percentile(rotating.latencies_ms, 99))
        idle.append(percentile(resting.latencies_ms, 99))
        writes += len(rotating.latencies_ms)
        say(
            f"rotation: {len(rotating.latencies_ms)} writes, p99 {busy[-1]:.1f} ms, at rest {idle[-1]:.1f} ms; "
            f"{took_s[-1]:.1f} s until all certificates were in use"
        )
    await _until(lambda: _are_live(federation), "the nodes live after all")
    ended_ms = await _revocations(federation)
    return report(
        "rotation",
        "ms",
        busy,
        {"the same load, no certificate replaced": idle},
        writes=writes,
        refused=0,
        lost=0,
        rotation_s=rounded(statistics.median(took_s)),
        revocations=REVOCATIONS,
        **{
            f"revocation_{where}_{p}_ms": rounded(percentile(each, int(p[1:])))
            for where, each in ended_ms.items()
            for p in ("p50", "p99")
        },
    )


# Rotation.


async def _one_run(
    federation: LocalFederation, name: str, meanwhile: Callable[[LocalFederation, Load], Any]
) -> Load:
    """Load while something is done. Raises `RuntimeError` when a write was refused, or did not arrive."""
    load = Load(federation, LEVELS, OPERATOR, name)
    async with load.running():
        await meanwhile(federation, load)
    if load.refusals:
        raise RuntimeError(f"{len(load.refusals)} writes were refused: {load.refusals[0]}")
    await _until(lambda: _have_arrived(federation, load), f"every write of {name} at the root")
    return load


async def _rotate(federation: LocalFederation, load: Load) -> None:
    """Replaces every certificate, and waits until each is in use."""
    certificates = federation.certificates
    told = {name: _count(federation, name) for name in _RENEWALS}
    bearers = [(plan.domain, Kind.CONTROLLER, plan.controller) for plan in TREE]
    bearers += [(ZONE, Kind.RELAY, RELAY), *((ZONE, Kind.NODE, node) for node in NODES)]
    bearers += [(domain, Kind.USER, OPERATOR) for domain in LEVELS]
    for bearer in bearers:
        await asyncio.to_thread(certificates.issue, *bearer)
    await load.renew()

    async def in_use() -> bool:
        for plan in TREE:
            leaf = certificates.leaf(plan.domain, Kind.CONTROLLER, plan.controller)
            wanted = fingerprint(TrustFiles.in_directory(leaf).read().leaf)
            shown = await asyncio.to_thread(served_certificate, federation.address(plan.domain))
            if fingerprint(shown) != wanted:
                return False
        return all(_count(federation, name) > before for name, before in told.items())

    await _until(in_use, "every new certificate in use")


#: Who says in its log that it goes on by a new certificate, and how.
_RENEWALS = {
    f"{REGION}/r1": "changed over to the renewed certificate",
    f"{ZONE}/r1": "changed over to the renewed certificate",
    f"agent/{RELAY}": "the certificate was renewed",
    f"agent/{NODES[0]}": "certificate_renewed",
    f"agent/{NODES[1]}": "certificate_renewed",
}


def _count(federation: LocalFederation, process: str) -> int:
    return federation.processes[process].log_path.read_text().count(_RENEWALS[process])


async def _have_arrived(federation: LocalFederation, load: Load) -> bool:
    async with _channel(federation, ROOT) as channel:
        stub = PolicyServiceStub(channel)
        for domain, ids in load.written.items():
            found: set[str] = set()
            request = policy_service_pb2.ListPoliciesRequest(domain=domain, page_size=1000)
            while True:
                page = await stub.ListPolicies(request)
                found |= {policy.id for policy in page.policies}
                request.page_token = page.next_page_token
                if not page.next_page_token:
                    break
            if not ids <= found:
                return False
    return True


async def _are_live(federation: LocalFederation) -> bool:
    async with _channel(federation, ZONE) as channel:
        stub = FleetServiceStub(channel)
        for node in NODES:
            try:
                request = fleet_service_pb2.GetNodeRequest(name=f"nodes/{node}")
                twin = (await stub.GetNode(request)).node
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    return False
                raise
            if twin.connectivity.link.mode != connectivity_pb2.CONNECTIVITY_MODE_LIVE:
                return False
    return True


# Revocation.


async def _revocations(federation: LocalFederation) -> dict[str, list[float]]:
    """Milliseconds until streams end, by where the revocation is told."""
    ways = {"told_there": (ZONE, ZONE), "told_above": (ZONE, REGION), "told_below": (REGION, ZONE)}
    found: dict[str, list[float]] = {}
    for where, (stands_at, told_at) in ways.items():
        users = [f"{where.replace('_', '-')}-{number}" for number in range(REVOCATIONS)]
        await _give_roles(federation, where, users)
        found[where] = await _end_streams(federation, users, stands_at, told_at)
        say(
            f"rotation: {where}: streams end after {percentile(found[where], 50):.1f} ms, "
            f"p99 {percentile(found[where], 99):.1f} ms"
        )
    return found


async def _give_roles(federation: LocalFederation, binding: str, users: list[str]) -> None:
    spec = role_binding_pb2.RoleBindingSpec(
        role=role_binding_pb2.ROLE_VIEWER, members=[f"user:{user}" for user in users]
    )
    request = access_service_pb2.CreateRoleBindingRequest(
        domain=ZONE, binding_id=binding.replace("_", "-"), spec=spec, durable_at=REGION
    )
    async with _channel(federation, ZONE) as channel:
        await AccessServiceStub(channel).CreateRoleBinding(request)


async def _end_streams(
    federation: LocalFederation, users: list[str], stands_at: str, told_at: str
) -> list[float]:
    """All users watch at one controller; one after the other is revoked at another, and its watch ends."""
    watch = fleet_service_pb2.WatchDomainsRequest(domain=ZONE)
    ended_ms = []
    async with AsyncExitStack() as stack:
        streams = {}
        for user in users:
            tls = await asyncio.to_thread(federation.certificates.client_tls, stands_at, user, ZONE)
            channel = await stack.enter_async_context(
                open_channel(federation.address(stands_at), _OWN_CONNECTION, tls)
            )
            stream = FleetServiceStub(channel).WatchDomains(watch)
            await stream.read()
            streams[user] = asyncio.create_task(_end_of(stream))
        teller = await stack.enter_async_context(_channel(federation, told_at))
        for user, ending in streams.items():
            request = revocation_service_pb2.RevokeCertificateRequest(domain=ZONE, reason="lost")
            request.identity.principal = f"user:{user}"
            began_s = time.perf_counter()
            await RevocationServiceStub(teller).RevokeCertificate(request)
            async with asyncio.timeout(TIMEOUT_S):
                ended_ms.append((await ending - began_s) * 1000)
    return ended_ms


async def _end_of(stream: Any) -> float:
    """When a watch was ended for a certificate that is revoked. Raises `RuntimeError` when it ends otherwise."""
    try:
        while await stream.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED and "revoked" in str(error.details()):
            return time.perf_counter()
        raise
    raise RuntimeError("a watch ended by itself")


#: gRPC would share connections of equal settings.
_OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


def _channel(federation: LocalFederation, domain: str) -> grpc.aio.Channel:
    """For the operator of a domain, with the certificate of the moment."""
    tls = federation.certificates.client_tls(domain, OPERATOR)
    return open_channel(federation.address(domain), _OWN_CONNECTION, tls)


async def _until(condition: Callable[[], Any], what: str) -> None:
    end_s = time.monotonic() + TIMEOUT_S
    while not await condition():
        if time.monotonic() > end_s:
            raise TimeoutError(f"not within {TIMEOUT_S:g} s: {what}")
        await asyncio.sleep(0.1)
