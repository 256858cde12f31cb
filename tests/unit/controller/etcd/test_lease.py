"""For how long a lease is believed in."""

from __future__ import annotations

from controller.etcd.access import Access
from controller.etcd.connection import Connection
from controller.etcd.lease import Lease, now_s
from etcdrpc import etcdrpc_pb2 as pb

TTL_S = 100


def lease_asked_for(seconds_ago: float) -> Lease:
    return Lease(Connection(Access(["127.0.0.1:1"])), 7, TTL_S, now_s() - seconds_ago)


def renewed(ttl_s: int) -> pb.LeaseKeepAliveResponse:
    return pb.LeaseKeepAliveResponse(ID=7, TTL=ttl_s)


async def test_validity_counts_from_when_the_grant_was_asked_for() -> None:
    assert lease_asked_for(TTL_S - 10).valid
    assert not lease_asked_for(TTL_S).valid


async def test_validity_counts_from_when_the_last_answered_ping_was_sent() -> None:
    lease = lease_asked_for(TTL_S - 10)
    lease._take(renewed(TTL_S), sent_s=now_s() - TTL_S)
    assert not lease.valid


async def test_an_answered_ping_prolongs_the_lease() -> None:
    lease = lease_asked_for(TTL_S - 10)
    lease._take(renewed(TTL_S), sent_s=now_s())
    assert lease.valid
    assert lease._left_s() > TTL_S - 10


async def test_a_lease_once_lost_is_not_revived_by_a_late_answer() -> None:
    lease = lease_asked_for(TTL_S)
    lease._take(renewed(TTL_S), sent_s=now_s())
    assert not lease.valid
    await lease.lost()


async def test_a_lease_that_the_server_has_ended_is_lost_at_once() -> None:
    lease = lease_asked_for(0)
    lease._take(renewed(0), sent_s=now_s())
    assert not lease.valid
    await lease.lost()
