"""The files and addresses of a federation on this machine: keys, genesis, one configuration a replica, ports. Owns what
lies where in its directory and what the configurations say; starts nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from controller.genesis import make_genesis
from controller.signing import Ed25519Signer
from deploy.local_certificates import LocalCertificates
from deploy.local_processes import find_program, free_port
from trust.identity import Kind


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
    #: Without a link to its parent, ever: at the parent's address that it is given nobody listens.
    air_gapped: bool = False
    #: "etcd" (one process a domain), "embedded" (one that its controller starts) or "sqlite".
    log: str = "etcd"
    #: 0: the default of a controller.
    log_budget_mib: float = 0.0

    @property
    def controller(self) -> str:
        """Id of the controller."""
        return f"{self.domain}-control"


@dataclass(slots=True)
class LocalLayout:
    """A tree of domains in a directory."""

    directory: Path
    plans: Sequence[DomainPlan]
    lease_ttl_s: float = 2.0
    #: Mutual TLS everywhere. Without, everything speaks in clear, on loopback.
    secured: bool = False
    #: With `secured`, who may do everything, so that others are held to their roles. Empty: nobody is.
    admins: Sequence[str] = ()
    #: With `secured`, domains whose controllers hold their authority, and enrol machines.
    enrolling: Sequence[str] = ()
    #: child controller -> addresses it dials for its parent, to put a proxy between; overrides the real ones.
    parent_addresses: dict[str, list[str]] = field(default_factory=dict)
    _ports: dict[str, int] = field(default_factory=dict)
    _keys: dict[str, Ed25519Signer] = field(default_factory=dict)
    _root: Ed25519Signer = field(default_factory=Ed25519Signer.generate)
    _certificates: LocalCertificates | None = None

    @property
    def certificates(self) -> LocalCertificates:
        """Of a secured federation, once it is laid out."""
        if self._certificates is None:
            raise RuntimeError("this federation has no certificates, or is not laid out yet")
        return self._certificates

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

    def enrolment_address(self, domain: str) -> str:
        """Where a domain's first replica enrols machines."""
        return f"127.0.0.1:{self._port(f'{domain}/enrolment')}"

    def etcd_endpoint(self, domain: str) -> str:
        """Where a domain's etcd listens."""
        return f"127.0.0.1:{self._port(f'{domain}/etcd')}"

    def log_prefix(self, domain: str) -> str:
        """Prefix of a domain's log in its etcd."""
        return f"/souverix/{domain}"

    def lay_out(self) -> None:
        """Makes keys, genesis and configuration files."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.secured:
            tree = [(plan.domain, plan.parent) for plan in self.plans]
            self._certificates = LocalCertificates(self.directory / "certificates", tree)
        for plan in self.plans:
            self._keys[plan.controller] = Ed25519Signer.generate()
            self._keys[plan.controller].save(self.signing_key(plan.domain))
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

    def signing_key(self, domain: str) -> Path:
        """The file of a controller's signing key, which its replicas share."""
        return self.directory / f"{self.plan(domain).controller}.pem"

    def public_key(self, domain: str) -> str:
        """The public part of that key, as configurations and `souverixctl` take it."""
        return self._keys[self.plan(domain).controller].public_key.hex()

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
            *self._enrolment(plan, replica),
            "[log]",
            f'kind = "{"etcd" if plan.log == "embedded" else plan.log}"',
            f"lease_ttl_s = {self.lease_ttl_s}",
        ]
        if plan.log == "etcd":
            lines.append(f'endpoints = ["{self.etcd_endpoint(plan.domain)}"]')
        if plan.log == "embedded":
            lines.append(f"etcd_binary = {json.dumps(find_program('etcd'))}")
        if plan.log != "sqlite":
            lines.append(f'prefix = "{self.log_prefix(plan.domain)}"')
        if plan.log_budget_mib:
            lines.append(f"budget_mib = {plan.log_budget_mib}")
        if self.secured:
            leaf = self.certificates.leaf(plan.domain, Kind.CONTROLLER, plan.controller)
            lines += ["[tls]", f"directory = {json.dumps(str(leaf))}"]
            mode = "enforce" if self.admins else "off"
            lines += ["[access]", f'mode = "{mode}"', f"admins = {json.dumps(list(self.admins))}"]
        if plan.domain in self.enrolling:
            authority = json.dumps(str(self.certificates.authority(plan.domain)))
            lines += ["[authority]", f"directory = {authority}"]
        lines += [
            "[trust]",
            f"signing_key = {json.dumps(str(self.signing_key(plan.domain)))}",
            f'root_public_key = "{self._root.public_key.hex()}"',
        ]
        if plan.parent:
            parent = self.plan(plan.parent)
            dialled = self._dialled(plan, parent)
            lines += [
                "[parent]",
                f'controller = "{parent.controller}"',
                f"addresses = {json.dumps(dialled)}",
                f'public_key = "{self.public_key(parent.domain)}"',
            ]
        else:
            lines.insert(-1, f"genesis = {json.dumps(str(self.directory / 'genesis.bin'))}")
        lines += ["[agents]", 'enrolment = "open"', "heartbeat_interval_s = 1.0"]
        for child in self.plans:
            if child.parent == plan.domain:
                lines += self._child(child)
        return "\n".join(lines) + "\n"

    def _dialled(self, plan: DomainPlan, parent: DomainPlan) -> list[str]:
        if plan.air_gapped:
            return [f"127.0.0.1:{self._port(f'{plan.domain}/no-link')}"]
        return self.parent_addresses.get(plan.controller) or self.addresses(parent.domain)

    def _enrolment(self, plan: DomainPlan, replica: int) -> list[str]:
        if plan.domain not in self.enrolling or replica != 1:
            return []
        return [f'enrolment_address = "{self.enrolment_address(plan.domain)}"']

    def _authority(self, child: DomainPlan) -> list[str]:
        if not self.secured:
            return []
        path = self.certificates.authority_file(child.domain)
        return [f"certificate_authority = {json.dumps(str(path))}"]

    def _child(self, child: DomainPlan) -> list[str]:
        lines = [
            "[[children]]",
            f'controller = "{child.controller}"',
            f'domain = "{child.domain}"',
            f'public_key = "{self.public_key(child.domain)}"',
            f'kind = "{child.kind}"',
            f'level = "{child.level}"',
            f'master_of_record = "{child.master_of_record}"',
            *self._authority(child),
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
            self._ports[name] = free_port(taken=self._ports.values())
        return self._ports[name]
