"""A controller that is killed at any time comes back with all it acknowledged, from its store and the log's tail."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from souverix.fleet.v1 import fleet_service_pb2, node_pb2
from tests.e2e.clients import DEADLINE_S, PRINCIPAL, Clients, wait_until

DOMAIN = "global"
KILLS = 3
NODES_A_LIFE = 60


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[LocalFederation]:
    with LocalFederation(
        tmp_path, [DomainPlan(DOMAIN, kind="global", level="global", log="sqlite")]
    ) as running:
        running.start_all()
        running.wait_for_master(DOMAIN)
        yield running


def create(client: Clients, ids: list[str]) -> None:
    reply = client.fleet.BatchCreateNodes(
        fleet_service_pb2.BatchCreateNodesRequest(
            items=[
                fleet_service_pb2.NodeCreation(
                    node_id=node, spec=node_pb2.NodeSpec(display_name=f"the node {node}")
                )
                for node in ids
            ]
        ),
        timeout=DEADLINE_S,
        metadata=PRINCIPAL,
    )
    assert all(result.status.code == 0 for result in reply.results)


def names(client: Clients, ids: list[str]) -> list[str]:
    return [
        client.fleet.GetNode(
            fleet_service_pb2.GetNodeRequest(name=f"nodes/{node}"),
            timeout=DEADLINE_S,
            metadata=PRINCIPAL,
        ).node.spec.display_name
        for node in ids
    ]


def holds(store: Path, subjects: int) -> bool:
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
        [(count,)] = connection.execute("SELECT count(*) FROM subjects")
        return bool(count >= subjects)


def told(federation: LocalFederation, message: str) -> list[dict[str, Any]]:
    """The lines of a log message, of all starts."""
    lines = federation.processes[f"{DOMAIN}/r1"].log_path.read_text().splitlines()
    said = [json.loads(line) for line in lines if line.startswith("{")]
    return [line for line in said if line["message"] == message]


def test_killed_controller_comes_back_with_all_it_acknowledged(
    federation: LocalFederation,
) -> None:
    ids: list[str] = []
    store = federation.data_dir(DOMAIN) / "store.sqlite"
    for life in range(KILLS):
        fresh = [f"n{life}-{number}" for number in range(NODES_A_LIFE)]
        with Clients(federation.address(DOMAIN)) as client:
            create(client, fresh)
        ids += fresh
        if life == 1:
            wait_until(partial(holds, store, len(ids)), "a batch in the store")
        federation.processes[f"{DOMAIN}/r1"].kill()
        federation.start_controller(DOMAIN)
        federation.wait_for_master(DOMAIN)
        with Clients(federation.address(DOMAIN)) as client:
            assert names(client, ids) == [f"the node {node}" for node in ids]
    federation.processes[f"{DOMAIN}/r1"].stop()
    federation.start_controller(DOMAIN)
    federation.wait_for_master(DOMAIN)
    last = told(federation, "store is open")[-1]
    assert last["anew"] == ""
    assert last["subjects"] > KILLS * NODES_A_LIFE
    with Clients(federation.address(DOMAIN)) as client:
        assert names(client, ids) == [f"the node {node}" for node in ids]
        everywhere = fleet_service_pb2.ListNodesRequest(filter="id = n0-*", include_subtree=True)
        reply = client.fleet.ListNodes(everywhere, timeout=DEADLINE_S)
        assert reply.total_size == NODES_A_LIFE
        assert reply.read_model.pending_node_count == 0
    restored = told(federation, "rows of nodes are restored")[-1]
    assert (restored["rows"], restored["pending"]) == (KILLS * NODES_A_LIFE, 0)
