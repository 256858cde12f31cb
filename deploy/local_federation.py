"""A whole federation on this machine: etcds, controllers and agents as real processes on loopback. Owns what it starts
and stops it by pid; what lies where is `local_layout`'s. Used by the demonstration, the end-to-end tests and the
benchmarks.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import grpc

from deploy.local_layout import LocalLayout
from deploy.local_processes import RunningProcess, find_program, start_process
from souverix.federation.v1 import federation_service_pb2, federation_service_pb2_grpc
from trust.channels import ClientTls, open_blocking_channel
from trust.identity import Kind

#: Longest wait for a process to be of use; a start takes about a second, five times that on a loaded machine.
START_TIMEOUT_S = 60.0


@dataclass(slots=True)
class LocalFederation(LocalLayout):
    """Lays out a tree of domains in a directory and runs it. Use as a context manager."""

    processes: dict[str, RunningProcess] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self.lay_out()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Processes.

    def start_processes(self) -> None:
        """Starts every etcd and every replica; waits for nothing."""
        for plan in self.plans:
            self.start_etcd(plan.domain)
        for plan in self.plans:
            for replica in range(1, plan.replicas + 1):
                self.start_controller(plan.domain, replica)

    def start_all(self) -> None:
        """Starts every etcd and every replica, and waits until all serve and know their place in the tree."""
        self.start_processes()
        for plan in self.plans:
            self.wait_for_master(plan.domain)
        for plan in self.plans:
            self.wait_for_authority(plan.domain)

    def start_etcd(self, domain: str) -> RunningProcess | None:
        """Starts a domain's etcd; None where its log is SQLite."""
        if self.plan(domain).log != "etcd":
            return None
        client, peer = self.etcd_endpoint(domain), f"127.0.0.1:{self._port(f'{domain}/etcd-peer')}"
        command = [
            find_program("etcd"),
            "--name=local",
            f"--data-dir={self.directory / (domain + '-etcd')}",
            f"--listen-client-urls=http://{client}",
            f"--advertise-client-urls=http://{client}",
            f"--listen-peer-urls=http://{peer}",
            f"--initial-advertise-peer-urls=http://{peer}",
            f"--initial-cluster=local=http://{peer}",
            "--quota-backend-bytes=8589934592",
        ]
        return self._start(f"{domain}/etcd", command)

    def start_controller(self, domain: str, replica: int = 1) -> RunningProcess:
        """Starts one replica."""
        command = [
            sys.executable,
            "-m",
            "controller.main",
            "run",
            "--config",
            str(self.config_path(domain, replica)),
        ]
        return self._start(f"{domain}/r{replica}", command)

    def start_agent(
        self,
        domain: str,
        node: str,
        *options: str,
        server: str = "",
        name: str = "",
        tls: Path | None = None,
        module: str = "nodeagent.main",
    ) -> RunningProcess:
        """Starts the agent of this host as a node of a domain; `server` is dialled instead of the domain's replicas,
        `name` tells a second agent of the node from the first, `tls` is the directory of a certificate that is not
        ours, and `module` runs in the agent's place.
        """
        name = name or node
        command = [
            sys.executable,
            "-m",
            module,
            "run",
            "--node",
            node,
            "--controller",
            server or self.server(domain),
            "--state-dir",
            str(self.directory / f"agent-{name}"),
            *(["--tls", str(tls)] if tls else self._tls_option(domain, Kind.NODE, node)),
            *options,
        ]
        return self._start(f"agent/{name}", command)

    def start_relay(
        self, domain: str, relay: str, *options: str, server: str = ""
    ) -> RunningProcess:
        """Starts a relay to a domain's controller; `server` is dialled instead of the domain's replicas."""
        command = [
            sys.executable,
            "-m",
            "nodeagent.main",
            "relay",
            "--node",
            relay,
            "--listen",
            self.relay_address(relay),
            "--controller",
            server or self.server(domain),
            "--state-dir",
            str(self.directory / f"relay-{relay}"),
            *self._tls_option(domain, Kind.RELAY, relay),
            *options,
        ]
        return self._start(f"agent/{relay}", command)

    def relay_address(self, relay: str) -> str:
        """Where agents dial a relay."""
        return f"127.0.0.1:{self._port(f'relay/{relay}')}"

    def start_simulated_agents(
        self, domain: str, count: int, seed: int = 1, *options: str
    ) -> RunningProcess:
        """Starts made-up nodes `<domain>-n1` … in one process."""
        command = [
            sys.executable,
            "-m",
            "nodeagent.main",
            "simulate",
            "--count",
            str(count),
            "--prefix",
            f"{domain}-n",
            "--controller",
            self.server(domain),
            "--state-dir",
            str(self.directory / f"agents-{domain}"),
            "--seed",
            str(seed),
            *self._tls_option(domain, Kind.RELAY, "simulator"),
            *(["--authority", str(self.certificates.authority(domain))] if self.secured else []),
            *options,
        ]
        return self._start(f"agents/{domain}", command)

    def _tls_option(self, domain: str, kind: Kind, name: str) -> list[str]:
        if not self.secured:
            return []
        return ["--tls", str(self.certificates.leaf(domain, kind, name))]

    def _start(self, name: str, command: Sequence[str]) -> RunningProcess:
        running = self.processes[name] = start_process(self.directory, name, command)
        return running

    def stop(self) -> None:
        """Stops everything: agents, then controllers, then etcds."""
        order = sorted(
            self.processes.values(),
            key=lambda p: (p.name.endswith("/etcd"), not p.name.startswith("agent")),
        )
        for process in order:
            if process.process.poll() is None:
                process.process.send_signal(signal.SIGCONT)
                if not process.name.endswith("/etcd"):
                    process.process.terminate()
        for process in order:
            process.stop()
        self.processes.clear()

    # Asking.

    def client_tls(self, domain: str, user: str = "operator") -> ClientTls | None:
        """How a domain's own user asks its controller; None where everything speaks in clear."""
        return self.certificates.client_tls(domain, user) if self.secured else None

    def channel(self, domain: str, replica: int = 1, user: str = "operator") -> grpc.Channel:
        """A channel to a replica, for a user of its domain."""
        return open_blocking_channel(
            self.address(domain, replica), (), self.client_tls(domain, user)
        )

    def wait_for_master(self, domain: str, timeout_s: float = START_TIMEOUT_S) -> int:
        """Waits until one replica is master; its number."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for replica in range(1, self.plan(domain).replicas + 1):
                running = self.processes.get(f"{domain}/r{replica}")
                if running is None or running.process.poll() is not None:
                    continue
                status = self.status(domain, replica)
                if status is not None and status.master:
                    return replica
            time.sleep(0.05)
        raise TimeoutError(f"no replica of {domain} became master; {self.last_lines(domain)}")

    def wait_for_authority(self, domain: str, timeout_s: float = START_TIMEOUT_S) -> None:
        """Waits until a domain's controller knows its own place in the tree."""
        deadline = time.monotonic() + timeout_s
        request = federation_service_pb2.GetAuthorityRequest(domain=domain)
        while time.monotonic() < deadline:
            with contextlib.suppress(grpc.RpcError), self.channel(domain) as channel:
                stub = federation_service_pb2_grpc.FederationServiceStub(channel)
                if stub.GetAuthority(request, timeout=2).term_path:
                    return
            time.sleep(0.05)
        raise TimeoutError(f"{domain} did not learn its authority; {self.last_lines(domain)}")

    def status(
        self, domain: str, replica: int = 1
    ) -> federation_service_pb2.GetStatusResponse | None:
        """What a replica says of itself; None when it does not answer."""
        with self.channel(domain, replica) as channel:
            stub = federation_service_pb2_grpc.FederationServiceStub(channel)
            try:
                response: federation_service_pb2.GetStatusResponse = stub.GetStatus(
                    federation_service_pb2.GetStatusRequest(), timeout=2
                )
            except grpc.RpcError:
                return None
            return response

    def last_lines(self, domain: str) -> str:
        """The ends of a domain's logs, for error messages."""
        ends = []
        for name, running in self.processes.items():
            if name.startswith(domain + "/") and running.log_path.exists():
                lines = running.log_path.read_text(errors="replace").splitlines()[-15:]
                ends.append(f"--- {name} (exit code {running.process.poll()})\n" + "\n".join(lines))
        return "\n".join(ends)
