"""A controller's process from its start to its end: what it says when it cannot start, and how it stops."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from controller.app import running
from controller.config import ConfigError
from controller.config_file import load_config
from controller.main import EXIT_CONFIG
from controller.replica import Duty
from controller.signing import Ed25519Signer
from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from souverix.fleet.v1 import fleet_service_pb2
from tests.e2e.clients import DEADLINE_S, Clients, wait_until
from tests.processes import ProcessStarter, RunningProcess

ROOT = DomainPlan("global", kind="global", level="global", log="sqlite")


@pytest.fixture
def laid_out(tmp_path: Path) -> Iterator[LocalFederation]:
    """The files of a root's controller, nothing started."""
    with LocalFederation(tmp_path / "files", [ROOT]) as federation:
        yield federation


def start(
    start_process: ProcessStarter, federation: LocalFederation, domain: str = "global"
) -> RunningProcess:
    command = [sys.executable, "-m", "controller.main", "run", "--config"]
    root = Path(__file__).resolve().parents[3]
    path = federation.config_path(domain)
    return start_process(f"{domain}-controller", [*command, path], cwd=root)


def edit(federation: LocalFederation, old: str, new: str) -> None:
    path = federation.config_path("global")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


async def live(federation: LocalFederation, *duties: Duty) -> None:
    """Lives as the process does, until something ends it."""
    async with asyncio.timeout(DEADLINE_S):
        async with running(load_config(federation.config_path("global"))) as replica:
            for duty in duties:
                replica.add_duty(duty)
            await asyncio.Event().wait()


# What is wrong is said, with the place.


def unknown_setting(federation: LocalFederation) -> str:
    edit(federation, "[listen]", "[listen]\ncolour = 1")
    return "colour"


def missing_signing_key(federation: LocalFederation) -> str:
    (federation.directory / "global-control.pem").unlink()
    return "trust.signing_key"


def signing_key_that_is_none(federation: LocalFederation) -> str:
    (federation.directory / "global-control.pem").write_text("no key")
    return "trust.signing_key"


def missing_genesis(federation: LocalFederation) -> str:
    (federation.directory / "genesis.bin").unlink()
    return "trust.genesis"


def genesis_of_another_key(federation: LocalFederation) -> str:
    path = federation.directory / "global-control.pem"
    path.unlink()
    Ed25519Signer.generate().save(path)
    return "another key"


def genesis_of_another_root(federation: LocalFederation) -> str:
    known = federation._root.public_key.hex()
    edit(federation, known, Ed25519Signer.generate().public_key.hex())
    return "trust.root_public_key"


def genesis_of_another_domain(federation: LocalFederation) -> str:
    edit(federation, 'domain = "global"', 'domain = "universe"')
    return "universe"


def genesis_that_is_none(federation: LocalFederation) -> str:
    (federation.directory / "genesis.bin").write_bytes(b"\xff\xff")
    return "holds no genesis"


def data_dir_that_is_a_file(federation: LocalFederation) -> str:
    federation.data_dir("global").write_text("in the way")
    return "controller.data_dir"


def open_address(federation: LocalFederation) -> str:
    edit(federation, "127.0.0.1", "0.0.0.0")  # noqa: S104 it is to be refused
    return "loopback"


@pytest.mark.parametrize(
    "spoil",
    [
        unknown_setting,
        missing_signing_key,
        signing_key_that_is_none,
        missing_genesis,
        genesis_of_another_key,
        genesis_of_another_root,
        genesis_of_another_domain,
        genesis_that_is_none,
        data_dir_that_is_a_file,
        open_address,
    ],
)
async def test_a_wrong_configuration_is_refused_with_the_place(
    laid_out: LocalFederation, spoil: Callable[[LocalFederation], str]
) -> None:
    place = spoil(laid_out)
    with pytest.raises(ConfigError) as refused:
        await live(laid_out)
    assert place in str(refused.value)


def test_a_wrong_configuration_ends_the_process_with_its_exit_code(
    laid_out: LocalFederation, start_process: ProcessStarter
) -> None:
    missing_genesis(laid_out)
    process = start(start_process, laid_out)
    assert process.wait_for_exit(within_s=DEADLINE_S) == EXIT_CONFIG
    assert "souverix-controller: trust.genesis" in process.log()
    assert "Traceback" not in process.log()


def test_a_port_in_use_ends_the_process_with_the_address(
    laid_out: LocalFederation, start_process: ProcessStarter
) -> None:
    host, _, port = laid_out.address("global").rpartition(":")
    with socket.socket() as other:
        other.bind((host, int(port)))
        other.listen()
        process = start(start_process, laid_out)
        assert process.wait_for_exit(within_s=DEADLINE_S) == EXIT_CONFIG
    assert f"listen.address {host}:{port} cannot be bound" in process.log()
    assert "Traceback" not in process.log()


def test_a_log_that_cannot_be_read_ends_the_process_with_a_message(
    laid_out: LocalFederation, start_process: ProcessStarter
) -> None:
    directory = laid_out.data_dir("global")
    directory.mkdir()
    (directory / "log.sqlite").write_bytes(b"no database at all, " * 500)
    process = start(start_process, laid_out)
    assert process.wait_for_exit(within_s=DEADLINE_S) == 1
    assert "souverix-controller: the event log: " in process.log()


# What is served.


def test_every_service_is_served_and_told_of_by_reflection_and_health(
    laid_out: LocalFederation, start_process: ProcessStarter
) -> None:
    process = start(start_process, laid_out)
    process.wait_for_log('"serving"')
    with grpc.insecure_channel(laid_out.address("global")) as channel:
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        reflected = reflection.ServerReflectionInfo(iter([asked]), timeout=DEADLINE_S)
        told = [each.name for each in next(reflected).list_services_response.service]
        ours = [name for name in told if name.startswith("souverix.")]
        assert [name.split(".")[1] for name in ours] == [
            "attention",
            "audit",
            "bundle",
            "command",
            "federation",
            "fleet",
            "graph",
            "nodelink",
            "nodelink",
            "nodelink",
            "policy",
            "supply",
            "sync",
            "trust",
            "trust",
            "trust",
            "trust",
            "trust",
        ]
        health: Any = health_pb2_grpc.HealthStub(channel)
        for name in ours:
            asked_of = health_pb2.HealthCheckRequest(service=name)
            reply = health.Check(asked_of, timeout=DEADLINE_S)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        unknown: Callable[..., bytes] = channel.unary_unary(f"/{ours[0]}/NoSuchMethod")
        with pytest.raises(grpc.RpcError) as refused:
            unknown(b"", timeout=DEADLINE_S)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


# Stopping.


async def test_a_stop_before_anything_was_served_leaves_no_task(laid_out: LocalFederation) -> None:
    before = asyncio.all_tasks()
    async with running(load_config(laid_out.config_path("global"))):
        pass
    await asyncio.sleep(0)
    left = {task for task in asyncio.all_tasks() - before if not task.done()}
    assert not left


async def test_what_ends_a_replicas_life_is_raised(laid_out: LocalFederation) -> None:
    async def failing(_: object) -> None:
        raise RuntimeError("a duty failed")

    with pytest.raises(RuntimeError, match="a duty failed"):
        await live(laid_out, failing)


@pytest.mark.timeout(120)
def test_a_stop_is_clean_with_sessions_watches_and_node_links_open(
    tmp_path: Path, start_process: ProcessStarter
) -> None:
    plans = [ROOT, DomainPlan("zone", "global", log="sqlite")]
    with LocalFederation(tmp_path / "files", plans) as federation:
        top = start(start_process, federation)
        federation.start_controller("zone")
        federation.wait_for_authority("zone")
        federation.start_simulated_agents("global", 5)
        with Clients(federation.address("global")) as clients:

            def live_nodes() -> int:
                request = fleet_service_pb2.ListNodesRequest(domain="global")
                return len(clients.fleet.ListNodes(request, timeout=DEADLINE_S).nodes)

            wait_until(lambda: live_nodes() == 5, "the agents' links")
            watches = [
                clients.fleet.WatchNodes(fleet_service_pb2.WatchNodesRequest(domain="global"))
                for _ in range(5)
            ]
            for watch in watches:
                next(watch)
            assert top.stop() == 0
            for watch in watches:
                with suppress(grpc.RpcError):
                    for _ in watch:
                        pass
        assert "Traceback" not in top.log()
        assert "was destroyed" not in top.log()


@pytest.mark.timeout(120)
def test_what_was_acknowledged_before_a_stop_under_load_is_there_after_it(
    laid_out: LocalFederation, start_process: ProcessStarter
) -> None:
    process = start(start_process, laid_out)
    acknowledged: list[str] = []
    go_on = threading.Event()
    go_on.set()

    def write(writer: int) -> None:
        with Clients(laid_out.address("global")) as clients, suppress(grpc.RpcError):
            for number in range(10_000):
                if not go_on.is_set():
                    return
                clients.create_policy("global", f"p-{writer}-{number}", "v1")
                acknowledged.append(f"p-{writer}-{number}")

    process.wait_for_log('"serving"')
    with Clients(laid_out.address("global")) as clients:

        def has_begun() -> bool:
            with suppress(grpc.RpcError):
                clients.create_policy("global", "first", "v1")
                return True
            return False

        process.wait_until(has_begun, "a first write")
    writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for writer in writers:
        writer.start()
    try:
        process.wait_until(lambda: len(acknowledged) > 200, "load")
        assert process.stop() == 0
    finally:
        go_on.clear()
        for writer in writers:
            writer.join(DEADLINE_S)
    assert "Traceback" not in process.log()

    again = start(start_process, laid_out)
    again.wait_for_log('"serving"')
    with Clients(laid_out.address("global")) as clients:
        found: set[str] = set()
        token = ""
        while True:
            page = clients.list_policies("global", token)
            found |= {policy.id for policy in page.policies}
            token = page.next_page_token
            if not token:
                break
    assert set(acknowledged) <= found


# Logs of other kinds.


@pytest.mark.timeout(120)
def test_an_embedded_etcd_starts_serves_and_stops_with_its_controller(
    laid_out: LocalFederation, start_process: ProcessStarter, etcd_binary: Path
) -> None:
    edit(laid_out, 'kind = "sqlite"', f'kind = "etcd"\netcd_binary = "{etcd_binary}"')
    process = start(start_process, laid_out)
    process.wait_for_log("running our own etcd")
    process.wait_for_log('"serving"')
    with Clients(laid_out.address("global")) as clients:
        wait_until(
            lambda: laid_out.status("global") is not None and laid_out.status("global").master,  # type: ignore[union-attr]
            "the mastership",
        )
        clients.create_policy("global", "p", "v1")
        status = laid_out.status("global")
        assert status is not None
        assert status.log_kind == "etcd"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children
    assert process.stop() == 0
    wait_until(lambda: not any(Path(f"/proc/{c}").exists() for c in children), "the end of etcd")
