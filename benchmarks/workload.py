"""Events as a zone of 2,000 nodes writes them. Owns their mix and size; never writes them anywhere."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from souverix.audit.v1 import audit_pb2
from souverix.event.v1 import event_pb2
from souverix.fleet.v1 import node_pb2, observation_pb2
from souverix.policy.v1 import policy_pb2

NODES = 2_000
POLICIES = 50

#: What ten events in a row are: nodes report more than operators declare, and what they declare is audited.
MIX = (
    "actual_state",
    "actual_state",
    "desired_state",
    "audit",
    "actual_state",
    "inventory",
    "actual_state",
    "policy",
    "audit",
    "actual_state",
)

REALM = "ims.mnc001.mcc001.3gppnetwork.org"

_START_S = 1_700_000_000


class Fact(NamedTuple):
    """What one event says; the domain is the zone's."""

    subject: str
    aspect: str
    body: Any
    principal: str
    request_id: str


def facts(count: int, seed: int = 1) -> Iterator[Fact]:
    """`count` facts, about 380 bytes each once they are events; the same for the same seed."""
    chance = random.Random(seed)
    for number in range(count):
        aspect = MIX[number % len(MIX)]
        node = f"edge-zone-a1-n{chance.randrange(NODES)}"
        if aspect == "actual_state":
            yield Fact(f"nodes/{node}", aspect, actual_state(chance, number), f"node:{node}", "")
        elif aspect == "inventory":
            yield Fact(f"nodes/{node}", aspect, _inventory(chance, node), f"node:{node}", "")
        elif aspect == "desired_state":
            body = declared_state(chance)
            yield Fact(f"nodes/{node}", aspect, body, "user:operator", _request_id(chance))
        elif aspect == "policy":
            subject = f"policies/p{chance.randrange(POLICIES)}"
            yield Fact(subject, aspect, _policy(chance), "user:operator", _request_id(chance))
        else:
            yield Fact(
                "audit/edge-zone-a1-control", aspect, _audit(chance, node), "user:operator", ""
            )


def values(count: int) -> list[bytes]:
    """The same facts as bare values, for stores that know nothing of streams."""
    return [
        event_pb2.Event(
            subject=fact.subject,
            request_id=fact.request_id,
            principal=fact.principal,
            **{fact.aspect: fact.body},
        ).SerializeToString()
        for fact in facts(count)
    ]


def _request_id(chance: random.Random) -> str:
    return f"{chance.getrandbits(128):032x}"


def _hash(chance: random.Random) -> str:
    return f"sha256:{chance.getrandbits(256):064x}"


def actual_state(chance: random.Random, number: int) -> node_pb2.ActualState:
    """What a node reports, the `number`-th of a run."""
    body = node_pb2.ActualState(
        reported_version=f"2.{chance.randrange(10)}.{chance.randrange(30)}",
        policy_bundle=f"p{chance.randrange(POLICIES)}",
        policy_version=f"policy-v{chance.randrange(9)}.{chance.randrange(9)}",
        config_name=f"config-v{chance.randrange(9)}.{chance.randrange(9)}",
        config_hash=_hash(chance),
        runtime=node_pb2.RuntimeState(
            health=node_pb2.RUNTIME_HEALTH_OK,
            battery_pct=chance.randrange(101),
            health_reason="all functions answer within their limits",
        ),
    )
    body.configuration.update(
        {
            "realm": REALM,
            "upstreams": ["10.0.0.1:5060", "10.0.0.2:5060", "10.0.0.3:5060"],
            "codecs": ["opus", "amr-wb"],
            "limit": 400,
        }
    )
    body.runtime.uptime.seconds = number
    body.runtime.last_heartbeat_time.seconds = _START_S + number
    body.report_time.seconds = _START_S + number
    return body


def declared_state(chance: random.Random) -> node_pb2.DesiredState:
    """What an operator declares."""
    body = node_pb2.DesiredState(
        policy_bundle=f"p{chance.randrange(POLICIES)}",
        target_version=f"2.{chance.randrange(10)}.{chance.randrange(30)}",
        config_name=f"config-v{chance.randrange(9)}.{chance.randrange(9)}",
        config_hash=_hash(chance),
        constraints=node_pb2.Constraints(
            maintenance_window="Sun 02:00-04:00 UTC", min_battery_pct=30
        ),
    )
    body.configuration.update(
        {
            "realm": REALM,
            "upstreams": ["10.0.0.1:5060", "10.0.0.2:5060"],
            "limit": chance.randrange(1000),
        }
    )
    return body


def _policy(chance: random.Random) -> policy_pb2.PolicySpec:
    body = policy_pb2.PolicySpec(
        display_name="Access edge, standard service",
        version=f"policy-v{chance.randrange(9)}.{chance.randrange(9)}",
        target_version=f"2.{chance.randrange(10)}.{chance.randrange(30)}",
        constraints=node_pb2.Constraints(maintenance_window="Sun 02:00-04:00 UTC"),
        tags=["access", "standard", "voice", "edge-zone-a1", "2026-maintained"],
    )
    body.configuration.update(
        {"realm": REALM, "codecs": ["opus", "amr-wb"], "limit": chance.randrange(1000)}
    )
    return body


def _inventory(chance: random.Random, node: str) -> observation_pb2.Inventory:
    body = observation_pb2.Inventory(
        cpu=observation_pb2.Cpu(
            vendor="Embedded Systems",
            model="Embedded processor 2.0 GHz",
            cores=4,
            logical_processors=8,
        ),
        memory_bytes=8 << 30,
        disks=[observation_pb2.Disk(device="nvme0n1", model="M2-256", capacity_bytes=256 << 30)],
        filesystems=[
            observation_pb2.Filesystem(
                mount_point="/",
                source="/dev/nvme0n1p2",
                type="ext4",
                capacity_bytes=240 << 30,
                available_bytes=chance.randrange(240 << 30),
            )
        ],
        os=observation_pb2.OperatingSystem(
            id="debian", name="Debian GNU/Linux", version="12 (bookworm)"
        ),
        kernel="Linux 6.1.0-18-amd64",
        architecture="x86_64",
        hostname=node,
    )
    body.observe_time.seconds = _START_S
    return body


def _audit(chance: random.Random, node: str) -> audit_pb2.AuditRecord:
    return audit_pb2.AuditRecord(
        principal="user:operator",
        action="souverix.fleet.v1.FleetService/SetDesiredState",
        resource=f"nodes/{node}",
        source="ipv4:127.0.0.1:51234",
        outcome=audit_pb2.AUDIT_OUTCOME_ALLOWED,
        request_id=_request_id(chance),
        details={"etag": f"{chance.getrandbits(80):020x}", "config_hash": _hash(chance)},
        message="the window of maintenance",
    )
