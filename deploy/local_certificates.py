"""Certificates of a federation on this machine: a root, an authority for each domain, and leaves for whoever is
started. Owns their directories, which are laid out as `souverixctl pki` does. The root's key is not kept: nothing needs
it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from trust.authority import Authority, ServerNames, new_root
from trust.certificates import fingerprint
from trust.channels import ClientTls
from trust.files import AUTHORITY_FILE, TrustFiles, write_authority, write_identity, write_roots
from trust.identity import Kind, dns_name_of
from trust.keys import new_tls_key, to_pem

TRUST_DOMAIN = "souverix.local"

#: Everything listens on loopback here, and proxies stand in between under other ports.
ON_LOOPBACK = ServerNames(ip=("127.0.0.1",))


#: How long ago the authorities were made: so that there can be leaves that have ended.
AGE = timedelta(days=180)


class LocalCertificates:
    """The certificates of a tree of domains, given as (domain, parent), parents first."""

    def __init__(self, directory: Path, domains: Sequence[tuple[str, str]]) -> None:
        self._directory = directory
        self._authorities: dict[str, Authority] = {}
        now = datetime.now(UTC) - AGE
        root_domain = next(domain for domain, parent in domains if not parent)
        root = new_root(new_tls_key(), TRUST_DOMAIN, root_domain, now)
        for domain, parent in domains:
            above = self._authorities[parent] if parent else root
            key = new_tls_key()
            certificate = above.issue_authority(key.public_key(), domain, now)
            authority = Authority(key, (certificate, *above.certificates))
            self._authorities[domain] = authority
            self.authority(domain).mkdir(parents=True)
            write_authority(self.authority(domain), authority.certificates, to_pem(key))

    def authority(self, domain: str) -> Path:
        """Directory of a domain's authority, as `souverixctl pki issue --authority` takes it."""
        return self._directory / f"ca-{domain}"

    @property
    def root_fingerprint(self) -> str:
        """What an installer is told of the root."""
        return fingerprint(next(iter(self._authorities.values())).certificates[-1])

    def authority_file(self, domain: str) -> Path:
        """The certificates of a domain's authority, as its parent is told."""
        return self.authority(domain) / AUTHORITY_FILE

    def leaf(self, domain: str, kind: Kind, name: str) -> Path:
        """Directory with a certificate of a member of a domain; made when first asked for."""
        directory = self._directory / f"{kind}-{domain}-{name}"
        if not directory.exists():
            self.issue(domain, kind, name)
        return directory

    def issue(
        self,
        domain: str,
        kind: Kind,
        name: str,
        *,
        at: datetime | None = None,
        life: timedelta | None = None,
    ) -> Path:
        """As `leaf`; a certificate that is there is renewed."""
        directory = self._directory / f"{kind}-{domain}-{name}"
        directory.mkdir(exist_ok=True)
        authority, key = self._authorities[domain], new_tls_key()
        servers = ON_LOOPBACK if kind in (Kind.CONTROLLER, Kind.RELAY) else None
        certificate = authority.issue(
            key.public_key(), kind, name, at or datetime.now(UTC), life=life, servers=servers
        )
        write_roots(directory, authority.certificates[-1:])
        write_identity(directory, to_pem(key), (certificate, *authority.intermediates))
        return directory

    def client_tls(self, domain: str, user: str = "operator", of: str = "") -> ClientTls:
        """How a user asks the controller of a domain; its own user, or that of domain `of`."""
        directory = self.leaf(of or domain, Kind.USER, user)
        path = self._authorities[domain].path
        credentials = TrustFiles.in_directory(directory).read()
        return ClientTls.of(credentials, dns_name_of(path, TRUST_DOMAIN))
