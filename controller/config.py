"""What one replica is told: the sections of its configuration and their defaults. Owns their shape; reads no file
(`controller.config_file`) and judges no value (`controller.config_checks`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from controller.attention_settings import AttentionSection
from controller.connectivity_settings import ConnectivitySection
from controller.lifecycle_settings import LifecycleSection
from telemetry.settings import TelemetrySettings
from trust.files import TrustFiles
from trust.tokens import TokenRules


class ConfigError(Exception):
    """The configuration is wrong; the operator must change the file. The message names the place."""


@dataclass(frozen=True, slots=True)
class ControllerSection:
    """Who this is."""

    id: str
    domain: str
    data_dir: Path
    replica: str = "r1"


@dataclass(frozen=True, slots=True)
class ListenSection:
    """Where it can be called."""

    address: str = "127.0.0.1:7400"
    #: Listener for people's tokens, by TLS without certificates of theirs; empty: none.
    people_address: str = ""
    #: Listener for channelz; empty: none.
    admin_address: str = ""
    #: Listener for machines that have no certificate yet, or an expired one; empty: none.
    enrolment_address: str = ""


@dataclass(frozen=True, slots=True)
class EtcdAccessSection:
    """How to reach an etcd that is not embedded."""

    ca: str = ""
    cert: str = ""
    key: str = ""
    user: str = ""
    password_file: str = ""
    #: Accept the etcd versions that can lose acknowledged data when killed (3.5.0 to 3.5.2).
    allow_lossy_versions: bool = False


@dataclass(frozen=True, slots=True)
class LogSection:
    """Where the event log is kept."""

    #: "etcd" or "sqlite".
    kind: str = "etcd"
    #: Empty with kind "etcd": the controller starts and supervises an etcd of its own.
    endpoints: tuple[str, ...] = ()
    prefix: str = "/souverix"
    etcd_binary: str = "etcd"
    lease_ttl_s: float = 5.0
    #: What the store may hold of the log before its older half is left to the archive: an eighth of etcd's default
    #: quota, for the file has to hold it beside what is not compacted yet, and never grows smaller on a shared etcd.
    budget_mib: float = 256.0
    #: Directory of the archive; replicas on one machine may share it. Empty: below data_dir.
    archive_dir: str = ""
    access: EtcdAccessSection = field(default_factory=EtcdAccessSection)


@dataclass(frozen=True, slots=True)
class TrustSection:
    """Keys."""

    #: PEM file of the controller's Ed25519 signing key; replicas of one controller share it.
    signing_key: Path
    #: Root public key, hexadecimal.
    root_public_key: str
    #: Signed genesis; the root's controller only.
    genesis: str = ""
    #: PEM file of the X25519 key that bundles for this controller are encrypted to; replicas share it. Empty: none is.
    bundle_key: str = ""


@dataclass(frozen=True, slots=True)
class TlsSection:
    """Certificates. With this section the controller is called, and calls, by mutual TLS only."""

    #: Directory of identity.pem and roots.pem, as `souverixctl pki issue` makes it.
    directory: str = ""
    #: In its place, a PEM file each: the chain, the key, the trusted roots.
    certificate: str = ""
    key: str = ""
    roots: str = ""

    @property
    def files(self) -> TrustFiles:
        """Where certificates, key and roots lie."""
        if self.directory:
            return TrustFiles.in_directory(Path(self.directory))
        return TrustFiles(Path(self.certificate), Path(self.key), Path(self.roots))


@dataclass(frozen=True, slots=True)
class AuthoritySection:
    """The certificate authority of the own domain, where this controller issues for it."""

    #: Directory of ca-key.pem, ca.pem and roots.pem, as `souverixctl pki issue-ca` makes it; replicas share it.
    directory: str = ""
    #: File whose first line is the passphrase of the key; empty: the key is in clear.
    passphrase_file: str = ""
    #: How long certificates of nodes and relays are good: a day, and renewed after two thirds of it.
    machine_life_h: float = 24.0
    #: How long after its end a certificate may still be renewed at the enrolment listener. Who finds an old disk can
    #: do that, too, so it is no longer than machines are away.
    recovery_days: float = 90.0


@dataclass(frozen=True, slots=True)
class ParentSection:
    """The controller above."""

    controller: str
    addresses: tuple[str, ...]
    #: Ed25519 public key of the parent's controller, hexadecimal: a zone whose first contact is a bundle cannot have
    #: learnt it from the log. Empty: bundles are taken once the log tells.
    public_key: str = ""


@dataclass(frozen=True, slots=True)
class AutonomySection:
    """What a child's controller may do on its own."""

    can_operate_isolated: bool = True
    can_modify_policies: bool = False
    can_deploy_versions: bool = False


@dataclass(frozen=True, slots=True)
class SyncSection:
    """How a controller syncs with its parent."""

    #: "continuous", "periodic", "opportunistic" or "manual".
    mode: str = "continuous"
    #: 0: the mode's default.
    frequency_s: float = 0.0
    batch_size: int = 0


@dataclass(frozen=True, slots=True)
class ChildSection:
    """A controller below: its domain is declared, and its key granted, by this controller."""

    controller: str
    domain: str
    #: Ed25519 public key, hexadecimal.
    public_key: str
    display_name: str = ""
    #: "region", "edge-zone", "cluster", "tenant" or "air-gap-island".
    kind: str = "edge-zone"
    #: "regional", "local" or "autonomous".
    level: str = "local"
    #: PEM file with the certificates of the child's authority, the newest first; empty: nobody of that domain is known
    #: by a certificate here.
    certificate_authority: str = ""
    #: Empty: the child's controller.
    master_of_record: str = ""
    autonomy: AutonomySection = field(default_factory=AutonomySection)
    sync: SyncSection = field(default_factory=SyncSection)


@dataclass(frozen=True, slots=True)
class AgentsSection:
    """Nodes' agents."""

    #: "known": a node must have been created. "open": an unknown node is created when it greets.
    enrolment: str = "known"
    heartbeat_interval_s: float = 2.0
    max_links: int = 10_000
    #: Nodes with a backlog let in a second. Each costs a handshake, a replay and some commits, five milliseconds of a
    #: core in all: a fifth of one, of which live nodes notice little.
    returns_per_s: float = 40.0
    #: Nodes without a backlog let in a second: they cost a handshake.
    arrivals_per_s: float = 300.0
    #: Replays that run at once: enough to fill the log's commits, and a bound on what is staged in memory.
    max_replays: int = 32


@dataclass(frozen=True, slots=True)
class OidcSection:
    """The OpenID provider whose tokens are taken at `listen.people_address`."""

    #: What its people and groups are called by: "corp" in oidc:alice@corp. The same at all controllers.
    name: str
    #: Claim `iss`, exactly.
    issuer: str
    #: What claim `aud` must name.
    audience: str
    #: JSON file with the provider's public keys (JWKS); looked at every second.
    jwks: Path
    name_claim: str = "sub"
    #: Empty: groups are not read.
    groups_claim: str = "groups"
    clock_skew_s: float = 60.0
    #: A working day: a token cannot be taken back before it ends.
    max_life_s: float = 12 * 3600.0

    @property
    def rules(self) -> TokenRules:
        """Which tokens are accepted."""
        return TokenRules(
            provider=self.name,
            issuer=self.issuer,
            audience=self.audience,
            name_claim=self.name_claim,
            groups_claim=self.groups_claim,
            clock_skew=timedelta(seconds=self.clock_skew_s),
            max_life=timedelta(seconds=self.max_life_s),
        )


@dataclass(frozen=True, slots=True)
class AccessSection:
    """Who may call what."""

    #: "enforce": as role bindings say. "off": everybody may call everything. Empty: enforced by TLS, off without.
    mode: str = ""
    #: Principals such as "user:alice" that are fleet-admin at this controller: somebody must give the first roles.
    admins: tuple[str, ...] = ()
    #: None: no tokens are taken.
    oidc: OidcSection | None = None


@dataclass(frozen=True, slots=True)
class ControllerConfig:
    """Everything one replica is told."""

    controller: ControllerSection
    trust: TrustSection
    listen: ListenSection = field(default_factory=ListenSection)
    log: LogSection = field(default_factory=LogSection)
    #: None: no TLS, and loopback addresses only.
    tls: TlsSection | None = None
    #: None: certificates are made elsewhere, by files.
    authority: AuthoritySection | None = None
    parent: ParentSection | None = None
    #: None: as the authority record of the own domain says.
    sync: SyncSection | None = None
    children: tuple[ChildSection, ...] = ()
    agents: AgentsSection = field(default_factory=AgentsSection)
    access: AccessSection = field(default_factory=AccessSection)
    connectivity: ConnectivitySection = field(default_factory=ConnectivitySection)
    telemetry: TelemetrySettings = field(default_factory=TelemetrySettings)
    attention: AttentionSection = field(default_factory=AttentionSection)
    lifecycle: LifecycleSection = field(default_factory=LifecycleSection)
    #: Directory of large values; replicas of one controller share it. Empty: below data_dir.
    values_dir: str = ""

    @property
    def access_enforced(self) -> bool:
        """Tells whether callers are held to their roles."""
        return self.access.mode == "enforce" or (not self.access.mode and self.tls is not None)
