"""Authorities of a small federation, and certificates for anybody in it: real ones, made once for a run of tests."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from trust.authority import Authority, ServerNames, new_root
from trust.files import TrustFiles, write_identity, write_roots
from trust.identity import Kind
from trust.keys import new_tls_key, to_pem

TRUST_DOMAIN = "souverix.test"

#: Domain -> its parent, as in the design: global > region-a > two zones; region-b > a zone.
TREE = {
    "global": "",
    "region-a": "global",
    "edge-zone-a1": "region-a",
    "edge-zone-a2": "region-a",
    "region-b": "global",
    "edge-zone-b1": "region-b",
}

ON_LOOPBACK = ServerNames(dns=(), ip=("127.0.0.1", "::1"))


def authority_below(above: Authority, domain: str, at: datetime) -> Authority:
    """A new authority of a domain below another."""
    key = new_tls_key()
    return Authority(
        key, (above.issue_authority(key.public_key(), domain, at), *above.certificates)
    )


class CertificateTree:
    """The root, an authority for each domain, and leaves in directories below `directory`."""

    def __init__(self, directory: Path, domains: Mapping[str, str] = TREE) -> None:
        self.made_at = datetime.now(UTC)
        self._directory = directory
        self._numbers = itertools.count(1)
        root_domain = next(domain for domain, parent in domains.items() if not parent)
        self.root = new_root(new_tls_key(), TRUST_DOMAIN, root_domain, self.made_at)
        self.authorities: dict[str, Authority] = {}
        for domain, parent in domains.items():
            above = self.authorities[parent] if parent else self.root
            self.authorities[domain] = authority_below(above, domain, self.made_at)

    def leaf(
        self,
        domain: str,
        kind: Kind,
        name: str,
        *,
        at: datetime | None = None,
        life: timedelta | None = None,
        into: Path | None = None,
        authority: Authority | None = None,
    ) -> TrustFiles:
        """Files of a new leaf; of the domain's authority, unless another is given. `into` is written anew."""
        issuer = authority or self.authorities[domain]
        key = new_tls_key()
        servers = ON_LOOPBACK if kind in (Kind.CONTROLLER, Kind.RELAY) else None
        certificate = issuer.issue(
            key.public_key(), kind, name, at or self.made_at, life=life, servers=servers
        )
        directory = into or self._directory / f"{next(self._numbers)}-{domain}-{kind}-{name}"
        directory.mkdir(parents=True, exist_ok=True)
        write_identity(directory, to_pem(key), (certificate, *issuer.intermediates))
        write_roots(directory, self.root.certificates)
        return TrustFiles.in_directory(directory)

    def controller(self, domain: str) -> TrustFiles:
        """Files of a domain's controller."""
        return self.leaf(domain, Kind.CONTROLLER, f"{domain}-control")
