"""A large fleet as it may be: what is declared, reported and known of each node. Owns the facts and their mix; never
writes them anywhere.

Nodes run few releases and configurations, most of them what is declared for them; what a report says of the moment is
each node's own. None is linked, and no mode is due to change: most come by at intervals, the others are away.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

from controller.twin.configuration_hash import configuration_hash
from souverix.fleet.v1 import connectivity_pb2, domain_pb2, lifecycle_pb2, node_pb2
from souverix.policy.v1 import policy_pb2

NODES_A_ZONE = 1_000
ZONES_A_REGION = 50

BUNDLES = 20
DECLARATIONS = 200

REALM = "ims.mnc001.mcc001.3gppnetwork.org"

#: How nodes that do not do as they are told differ, with the percentage of each.
REPORTS = {"as declared": 88, "older release": 6, "another limit": 4, "another codec too": 2}

_HOUR_S = 3600

#: Longest ago that a node was heard: below the day after which one that is cut off counts as disconnected.
_LONGEST_AGO_S = 20 * _HOUR_S


class NodeFacts(NamedTuple):
    """What is written of one node, by aspect."""

    node: str
    zone: str
    bodies: dict[str, Any]


def region_of(zone: str) -> str:
    """The region a zone is in."""
    return f"region-{int(zone.removeprefix('zone-')) // ZONES_A_REGION:02}"


def node_name(number: int) -> str:
    """The id of the `number`-th node."""
    return f"zone-{number // NODES_A_ZONE:04}-n{number % NODES_A_ZONE:04}"


def policies() -> Iterator[tuple[str, policy_pb2.PolicySpec]]:
    """The bundles that nodes name, by id."""
    for number in range(BUNDLES):
        yield (
            f"bundle-{number:02}",
            policy_pb2.PolicySpec(
                display_name=f"Access edge, service class {number}",
                version=f"policy-v3.{number % 7}",
                constraints=node_pb2.Constraints(maintenance_window="Sun 02:00-04:00 UTC"),
            ),
        )


def fleet(count: int, now_s: int, seed: int = 1) -> Iterator[NodeFacts]:
    """So many nodes in zones of `NODES_A_ZONE`, the same for the same seed and time."""
    chance = random.Random(seed)
    declarations = [_declared(chance) for _ in range(DECLARATIONS)]
    reports = [{kind: _reported(declared, kind) for kind in REPORTS} for declared in declarations]
    kinds = [kind for kind, percentage in REPORTS.items() for _ in range(percentage)]
    for number in range(count):
        node = node_name(number)
        which, since_s = (
            chance.randrange(DECLARATIONS),
            now_s - chance.randrange(_HOUR_S, _LONGEST_AGO_S),
        )
        bodies = {
            "placement": node_pb2.Placement(domain=node[:9], epoch=1),
            "existence": domain_pb2.Existence(exists=True, time={"seconds": 1_700_000_000}),
            "node_spec": _spec(chance, number),
            "desired_state": declarations[which],
            "actual_state": _report(chance, reports[which][chance.choice(kinds)], since_s),
            "lifecycle": lifecycle_pb2.LifecycleState(
                phase=chance.choice(_PHASES), last_transition_time={"seconds": since_s}
            ),
            "link_state": chance.choice(_LINKS)(since_s),
        }
        yield NodeFacts(node, node[:9], bodies)


def _declared(chance: random.Random) -> node_pb2.DesiredState:
    body = node_pb2.DesiredState(
        policy_bundle=f"bundle-{chance.randrange(BUNDLES):02}",
        target_version=f"1.{chance.choice((4, 4, 5))}.{chance.randrange(1, 10)}",
        config_name=f"config-v{chance.randrange(9)}.{chance.randrange(9)}",
        constraints=node_pb2.Constraints(
            maintenance_window="Sun 02:00-04:00 UTC", min_battery_pct=30
        ),
    )
    body.configuration.update(
        {
            "realm": REALM,
            "upstreams": ["10.0.0.1:5060", "10.0.0.2:5060"],
            "codecs": ["opus", "amr-wb"],
            "limit": chance.randrange(1000),
        }
    )
    body.config_hash = configuration_hash(body.configuration)
    return body


def _reported(declared: node_pb2.DesiredState, kind: str) -> node_pb2.ActualState:
    body = node_pb2.ActualState(
        reported_version=declared.target_version,
        policy_bundle=declared.policy_bundle,
        policy_version=f"policy-v3.{int(declared.policy_bundle[-2:]) % 7}",
        config_name=declared.config_name,
        configuration=declared.configuration,
    )
    if kind == "older release":
        body.reported_version = f"1.3.{declared.target_version[-1]}"
    elif kind == "another limit":
        body.configuration["limit"] = 400.5
    elif kind == "another codec too":
        body.configuration["codecs"] = ["opus", "amr-wb", "pcmu"]
    body.config_hash = configuration_hash(body.configuration)
    return body


def _report(
    chance: random.Random, template: node_pb2.ActualState, at_s: int
) -> node_pb2.ActualState:
    body = node_pb2.ActualState()
    body.CopyFrom(template)
    runtime = body.runtime
    runtime.health = chance.choice(_HEALTHS)
    runtime.battery_pct = chance.randrange(101)
    runtime.health_reason = "all functions answer within their limits"
    runtime.uptime.seconds = chance.randrange(10_000_000)
    runtime.last_heartbeat_time.seconds = body.report_time.seconds = at_s
    return body


def _spec(chance: random.Random, number: int) -> node_pb2.NodeSpec:
    tags = ["access", f"rack-{number % 40}", f"site-{number % 700}"]
    if chance.random() < 0.02:
        tags.append("lab")
    return node_pb2.NodeSpec(
        display_name=f"Access edge {number}",
        kind=node_pb2.NODE_KIND_EDGE,
        tags=tags,
        labels={"owner": f"team-{number % 12}"},
    )


def _link(mode: connectivity_pb2.ConnectivityMode, reason: str, since_s: int) -> Any:
    link = connectivity_pb2.LinkState(
        mode=mode,
        previous_mode=connectivity_pb2.CONNECTIVITY_MODE_LIVE,
        reason=reason,
        evidence="nothing heard for 3600 s",
        since={"seconds": since_s},
        last_seen_time={"seconds": since_s},
    )
    if mode == connectivity_pb2.CONNECTIVITY_MODE_EDGE_CACHED:
        link.sync_interval.seconds = 12 * _HOUR_S
    return link


#: Drawn from with equal chances.
_LINKS = (
    17 * [partial(_link, connectivity_pb2.CONNECTIVITY_MODE_EDGE_CACHED, "visits")]
    + 2 * [partial(_link, connectivity_pb2.CONNECTIVITY_MODE_AUTONOMOUS, "connection_lost")]
    + [partial(_link, connectivity_pb2.CONNECTIVITY_MODE_DISCONNECTED, "silent_too_long")]
)
_PHASES = (
    97 * [lifecycle_pb2.LIFECYCLE_PHASE_ACTIVE]
    + 2 * [lifecycle_pb2.LIFECYCLE_PHASE_UPDATING]
    + [lifecycle_pb2.LIFECYCLE_PHASE_QUARANTINED]
)
_HEALTHS = (
    96 * [node_pb2.RUNTIME_HEALTH_OK]
    + 3 * [node_pb2.RUNTIME_HEALTH_DEGRADED]
    + [node_pb2.RUNTIME_HEALTH_FAILED]
)
