"""Random fleets: facts of nodes in a small tree of domains, and their twins as composed one by one."""

from __future__ import annotations

from random import Random
from typing import Any

from controller.twin.configuration_hash import configuration_hash
from controller.twin.drift import DriftAnalyzer
from controller.twin.effective import effective_state
from controller.twin.facts import timestamp
from controller.twin.freshness import Freshness
from controller.twin.node import compose_node, find_node
from federation.state import State
from souverix.fleet.v1 import (
    connectivity_pb2,
    domain_pb2,
    drift_pb2,
    lifecycle_pb2,
    node_pb2,
)
from souverix.policy.v1 import policy_pb2
from tests.federation_fixture import ROOT, MemoryController, root_controller

DOMAINS = (ROOT, "region-a", "edge-a1", "edge-a2")
VERSIONS = ("", "1.4.6", "1.4.7", "v1.5.0", "1.5.0-rc.1", "souverix-rempart-1.4.7", "main")
TAGS = ("lab", "gateway", "west")
REGIONS = ("", "north", "south east")


def tree() -> MemoryController:
    """A controller that serves all of `DOMAINS`."""
    root = root_controller()
    root.declare("region-a", ROOT)
    root.declare("edge-a1", "region-a")
    root.declare("edge-a2", "region-a")
    return root


class RandomFleet:
    """Facts drawn from a seed, one commit at a time."""

    def __init__(self, seed: int, nodes: int) -> None:
        self.chance = Random(seed)
        self.controller = tree()
        self.nodes = nodes
        self.homes: dict[str, str] = {}
        self.epochs: dict[str, int] = {}

    @property
    def state(self) -> State:
        return self.controller.state

    def step(self) -> None:
        """One commit of some kind."""
        self.controller.now_ms += self.chance.randrange(1, 100_000)
        kinds = ["spec", "desired", "report", "report", "link", "link", "lifecycle", "policy"]
        kinds += ["waiver", "delete", "move"] if self.chance.random() < 0.3 else []
        kind = self.chance.choice(kinds)
        if kind == "policy":
            self._policy()
            return
        subject = f"nodes/n{self.chance.randrange(self.nodes):03}"
        if subject not in self.homes:
            self._create(subject)
        elif kind == "move":
            self._move(subject)
        elif kind == "delete":
            self._write(subject, "existence", domain_pb2.Existence(exists=False))
        else:
            aspect, body = getattr(self, f"_{kind}")()
            self._write(subject, aspect, body)

    def _write(self, subject: str, aspect: str, body: Any, **claims: Any) -> None:
        domain = self.homes[subject]
        claims.setdefault("optimistic", self.chance.random() < 0.1)
        self.controller.submit(
            lambda p: p.write(domain, subject, aspect, body, principal="user:a", **claims)
        )

    def _create(self, subject: str) -> None:
        domain = self.homes[subject] = self.chance.choice(DOMAINS)
        time = timestamp(self.controller.now_ms)
        self._write(subject, "existence", domain_pb2.Existence(exists=True, time=time))
        placement = node_pb2.Placement(domain=domain, epoch=1)
        self._write(subject, "placement", placement)
        self._write(subject, *self._spec())

    def _move(self, subject: str) -> None:
        epoch = self.epochs[subject] = self.epochs.get(subject, 1) + 1
        time = timestamp(self.controller.now_ms)
        placement = node_pb2.Placement(domain=self.chance.choice(DOMAINS), epoch=epoch)
        if self.chance.random() < 0.5:
            self._write(subject, "placement", placement)
        self.homes[subject] = placement.domain
        self._write(subject, "placement", placement)
        self._write(subject, "existence", domain_pb2.Existence(exists=True, time=time))

    def _spec(self) -> tuple[str, Any]:
        chance = self.chance
        tags = [tag for tag in TAGS if chance.random() < 0.4]
        labels = {"site": chance.choice(["s1", "s2"])} if chance.random() < 0.5 else {}
        kind: Any = chance.randrange(6)
        return "node_spec", node_pb2.NodeSpec(
            kind=kind, region=chance.choice(REGIONS), tags=tags, labels=labels
        )

    def _desired(self) -> tuple[str, Any]:
        body = node_pb2.DesiredState(
            target_version=self.chance.choice(VERSIONS),
            policy_bundle=self.chance.choice(["", "base", "none-such"]),
        )
        return "desired_state", body

    def _report(self) -> tuple[str, Any]:
        health: Any = self.chance.randrange(5)
        body = node_pb2.ActualState(
            reported_version=self.chance.choice(VERSIONS),
            policy_version=self.chance.choice(["", "v1", "v2"]),
        )
        body.runtime.health = health
        if self.chance.random() < 0.5:
            body.configuration.update({"a": self.chance.randrange(3), "b": {"c": "x"}})
            body.config_hash = configuration_hash(body.configuration)
        return "actual_state", body

    def _link(self) -> tuple[str, Any]:
        mode: Any = self.chance.randrange(1, 8)
        since = timestamp(self.controller.now_ms)
        return "link_state", connectivity_pb2.LinkState(mode=mode, since=since)

    def _lifecycle(self) -> tuple[str, Any]:
        phase: Any = self.chance.randrange(9)
        state = self.chance.choice(["", "LIVE_OK", "UPDATING_APPLYING"])
        return "lifecycle", lifecycle_pb2.LifecycleState(phase=phase, state=state)

    def _waiver(self) -> tuple[str, Any]:
        waiver = drift_pb2.DriftWaiver(field="target_version", any_value=True, reason="known")
        end_ms = self.controller.now_ms + self.chance.randrange(1, 2_000_000)
        waiver.expire_time.CopyFrom(timestamp(end_ms))
        return "drift_waiver", drift_pb2.DriftWaivers(waivers=[waiver])

    def _policy(self) -> None:
        chance = self.chance
        spec = policy_pb2.PolicySpec(
            version=chance.choice(["v1", "v2"]),
            target_version=chance.choice(VERSIONS),
            enforced=chance.random() < 0.3,
            tags=[chance.choice(TAGS)] if chance.random() < 0.3 else [],
        )
        if chance.random() < 0.5:
            spec.configuration.update({"a": chance.randrange(3)})
        domain, subject = chance.choice(DOMAINS), f"policies/{chance.choice(['base', 'extra'])}"

        def decide(proposal: Any) -> None:
            there = domain_pb2.Existence(exists=chance.random() < 0.9)
            proposal.write(domain, subject, "existence", there, principal="user:a")
            proposal.write(domain, subject, "policy", spec, principal="user:a")

        self.controller.submit(decide)


class CutOff(Freshness):
    """Freshness at a controller that cannot reach some domains' controllers since some time."""

    def __init__(self, state: State, now_ms: int, unknown: dict[str, int]) -> None:
        super().__init__(state, ROOT, now_ms)
        self._since = unknown

    def unknown_since_ms(self, domain: str) -> int | None:
        return self._since.get(domain)


def twins(state: State, now_ms: int, unknown: dict[str, int]) -> dict[str, node_pb2.Node]:
    """All nodes that exist, as `GetNode` shows them. `unknown` names domains whose controllers cannot be reached."""
    freshness = CutOff(state, now_ms, unknown)
    analyzer = DriftAnalyzer(state, now_ms)
    found = {}
    for subject in sorted(state.domains_of_subject):
        at = find_node(state, subject) if subject.startswith("nodes/") else None
        if at is not None:
            node = compose_node(state, at, freshness)
            node.drift.CopyFrom(analyzer.drift_of(at).message(details=True))
            effective = effective_state(state, at.home.domain, subject)
            node.effective_desired_state.desired_state.CopyFrom(effective.desired)
            found[node.id] = node
    return found
