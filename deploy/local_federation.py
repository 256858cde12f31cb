"""A whole federation on this machine: keys, configuration files, etcds, controllers and agents as real processes on
loopback. Owns what it starts and stops it by pid; used by the demonstration, the end-to-end tests and the benchmarks.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

import grpc

from controller.genesis import make_genesis
from controller.log import die_with_parent
from controller.signing import Ed25519Signer
from deploy.local_certificates import LocalCertificates
from souverix.federation.v1 import federation_service_pb2, federation_service_pb2_grpc
from trust.channels import ClientTls, open_blocking_channel
from trust.identity import Kind

#: Longest wait for a process to be of use; a start takes about a second, five times that on a loaded machine.
START_TIMEOUT_S = 60.0

#: Wait for a process to end after SIGTERM before it is killed.
STOP_TIMEOUT_S = 10.0

#: Listeners get ports below those of outgoing connections, of which a federation has hundreds: between the choice of a
#: port and its use one of them could take it.
PORT_SPAN = 10_000
MAX_PORT_ATTEMPTS = 100

#: Beginning of the outgoing range where the system does not tell it (Linux's default).
DEFAULT_OUTGOING_PORT = 32_768


@dataclass(frozen=True, slots=True)
class DomainPlan:
    """One domain to lay out, with its controller `<domain>-control`."""

    domain: str
    parent: str = ""
    kind: str = "edge-zone"
    level: str = "local"
    replicas: int = 1
    #: Empty: the domain's own controller.
    master_of_record: str = ""
    can_modify_policies: bool = True
    can_deploy_versions: bool = True
    sync_mode: str = "continuous"
    sync_frequency_s: float = 0.0
    #: "etcd" (one process a domain) or "sqlite".
    log: str = "etcd"

    @property
    def controller(self) -> str:
        """Id of the controller."""
        return f"{self.domain}-control"


@dataclass(slots=True)
class RunningProcess:
    """A process of ours."""

    name: str
    command: Sequence[str]
    log_path: Path
    process: subprocess.Popen[bytes]
    _output: IO[bytes]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.wait()
        self._output.close()

    def pause(self) -> None:
        """SIGSTOP."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL when it does not end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if not self._output.closed:
            self._output.close()


@dataclass(slots=True)
class LocalFederation:
    """Lays out a tree of domains in a directory and runs it. Use as a context manager."""

    directory: Path
    plans: Sequence[DomainPlan]
    lease_ttl_s: float = 2.0
    #: Mutual TLS everywhere. Without, everything speaks in clear, on loopback.
    secured: bool = False
    #: controller -> address its children dial instead of the real ones, to put a proxy between.
    dialled_as: dict[str, list[str]] = field(default_factory=dict)
    #: child controller -> addresses it dials for its parent; overrides the real ones.
    parent_addresses: dict[str, list[str]] = field(default_factory=dict)
    processes: dict[str, RunningProcess] = field(default_factory=dict)
    _ports: dict[str, int] = field(default_factory=dict)
    _keys: dict[str, Ed25519Signer] = field(default_factory=dict)
    _root: Ed25519Signer = field(default_factory=Ed25519Signer.generate)
    _certificates: LocalCertificates | None = None

    def __enter__(self) -> Self:
        self.lay_out()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Layout.

    def plan(self, domain: str) -> DomainPlan:
        """The plan of a domain."""
        return next(plan for plan in self.plans if plan.domain == domain)

    def address(self, domain: str, replica: int = 1) -> str:
        """Where a replica listens."""
        return f"127.0.0.1:{self._port(f'{domain}/r{replica}')}"

    def addresses(self, domain: str) -> list[str]:
        """Where a domain's replicas listen."""
        return [self.address(domain, n + 1) for n in range(self.plan(domain).replicas)]

    def server(self, domain: str) -> str:
        """All addresses of a domain, as `souverixctl --server` takes them."""
        return ",".join(self.addresses(domain))

    def etcd_endpoint(self, domain: str) -> str:
        """Where a domain's etcd listens."""
        return f"127.0.0.1:{self._port(f'{domain}/etcd')}"

    def lay_out(self) -> None:
        """Makes keys, genesis and configuration files."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.secured:
            tree = [(plan.domain, plan.parent) for plan in self.plans]
            self._certificates = LocalCertificates(self.directory / "certificates", tree)
        for plan in self.plans:
            self._keys[plan.controller] = Ed25519Signer.generate()
            self._keys[plan.controller].save(self.directory / f"{plan.controller}.pem")
        root = next(plan for plan in self.plans if not plan.parent)
        genesis = make_genesis(
            self._root, self._keys[root.controller], root.controller, root.domain
        )
        (self.directory / "genesis.bin").write_bytes(genesis.SerializeToString())
        for plan in self.plans:
            for replica in range(1, plan.replicas + 1):
                self.config_path(plan.domain, replica).write_text(self._config(plan, replica))

    def config_path(self, domain: str, replica: int = 1) -> Path:
        """The configuration file of a replica."""
        return self.directory / f"{domain}-r{replica}.toml"

    def data_dir(self, domain: str, replica: int = 1) -> Path:
        """The data directory of a replica."""
        return self.directory / f"{domain}-r{replica}"

    def _config(self, plan: DomainPlan, replica: int) -> str:
        values = json.dumps(str(self.directory / f"{plan.domain}-values"))
        lines = [
            f"values_dir = {values}",
            "[controller]",
            f'id = "{plan.controller}"',
            f'domain = "{plan.domain}"',
            f'replica = "r{replica}"',
            f"data_dir = {json.dumps(str(self.data_dir(plan.domain, replica)))}",
            "[listen]",
            f'address = "{self.address(plan.domain, replica)}"',
            "[log]",
            f'kind = "{plan.log}"',
            f"lease_ttl_s = {self.lease_ttl_s}",
        ]
        if plan.log == "etcd":
            lines.append(f'endpoints = ["{self.etcd_endpoint(plan.domain)}"]')
            lines.append(f'prefix = "/souverix/{plan.domain}"')
        if self.secured:
            leaf = self.certificates.leaf(plan.domain, Kind.CONTROLLER, plan.controller)
            lines += ["[tls]", f"directory = {json.dumps(str(leaf))}"]
        lines += [
            "[trust]",
            f"signing_key = {json.dumps(str(self.directory / (plan.controller + '.pem')))}",
            f'root_public_key = "{self._root.public_key.hex()}"',
        ]
        if plan.parent:
            parent = self.plan(plan.parent)
            dialled = self.parent_addresses.get(plan.controller) or self.addresses(parent.domain)
            lines += [
                "[parent]",
                f'controller = "{parent.controller}"',
                f"addresses = {json.dumps(dialled)}",
            ]
        else:
            lines.insert(-1, f"genesis = {json.dumps(str(self.directory / 'genesis.bin'))}")
        lines += ["[agents]", 'enrolment = "open"', "heartbeat_interval_s = 1.0"]
        for child in self.plans:
            if child.parent == plan.domain:
                lines += self._child(child)
        return "\n".join(lines) + "\n"

    def _child(self, child: DomainPlan) -> list[str]:
        lines = [
            "[[children]]",
            f'controller = "{child.controller}"',
            f'domain = "{child.domain}"',
            f'public_key = "{self._keys[child.controller].public_key.hex()}"',
            f'kind = "{child.kind}"',
            f'level = "{child.level}"',
            f'master_of_record = "{child.master_of_record}"',
            *(
                [
                    f"certificate_authority = {json.dumps(str(self.certificates.authority_file(child.domain)))}"
                ]
                if self.secured
                else []
            ),
            "[children.autonomy]",
            f"can_modify_policies = {str(child.can_modify_policies).lower()}",
            f"can_deploy_versions = {str(child.can_deploy_versions).lower()}",
            "[children.sync]",
            f'mode = "{child.sync_mode}"',
        ]
        if child.sync_frequency_s:
            lines.append(f"frequency_s = {child.sync_frequency_s}")
        return lines

    def _port(self, name: str) -> int:
        if name not in self._ports:
            self._ports[name] = _free_port(taken=self._ports.values())
        return self._ports[name]

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
        self, domain: str, node: str, *options: str, server: str = "", name: str = ""
    ) -> RunningProcess:
        """Starts the agent of this host as a node of a domain; `server` is dialled instead of the domain's replicas,
        and `name` tells a second agent of the node from the first.
        """
        name = name or node
        command = [
            sys.executable,
            "-m",
            "nodeagent.main",
            "run",
            "--node",
            node,
            "--controller",
            server or self.server(domain),
            "--state-dir",
            str(self.directory / f"agent-{name}"),
            *self._tls_option(domain, Kind.NODE, node),
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
            *options,
        ]
        return self._start(f"agents/{domain}", command)

    def _tls_option(self, domain: str, kind: Kind, name: str) -> list[str]:
        if not self.secured:
            return []
        return ["--tls", str(self.certificates.leaf(domain, kind, name))]

    def _start(self, name: str, command: Sequence[str]) -> RunningProcess:
        log_path = self.directory / (name.replace("/", "-") + ".log")
        output = log_path.open("ab")
        # Its own process group: Ctrl-C is for us, who stop the others in order.
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        running = RunningProcess(name, command, log_path, process, output)
        self.processes[name] = running
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

    @property
    def certificates(self) -> LocalCertificates:
        """Of a secured federation, once it is laid out."""
        if self._certificates is None:
            raise RuntimeError("this federation has no certificates, or is not laid out yet")
        return self._certificates

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


def _free_port(taken: Collection[int]) -> int:
    """A port that nobody listens on and no outgoing connection will be given. Raises `OSError`."""
    for _ in range(MAX_PORT_ATTEMPTS):
        port = random.randrange(_first_outgoing_port() - PORT_SPAN, _first_outgoing_port())
        with contextlib.suppress(OSError), socket.socket() as probe:
            if port not in taken:
                probe.bind(("127.0.0.1", port))
                return port
    raise OSError(f"no free port among {MAX_PORT_ATTEMPTS} tried below {_first_outgoing_port()}")


def _first_outgoing_port() -> int:
    """Where the kernel's range for the ports of outgoing connections begins."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        return DEFAULT_OUTGOING_PORT


def find_program(name: str) -> str:
    """An external program, from the project's tools or from PATH. Raises `FileNotFoundError`."""
    tools = Path(__file__).resolve().parent.parent / ".tools" / "bin" / name
    if tools.exists():
        return str(tools)
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is neither in .tools/bin nor on PATH; run `make tools`")
    return found
