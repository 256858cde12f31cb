"""The certificate authority of a controller's own domain, where the controller holds it. Owns what is issued by it;
who may have a certificate is for others to decide.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from controller.config import AuthoritySection
from controller.enrolment.errors import AuthorityNotHeld
from souverix.trust.v1 import join_service_pb2
from trust.authority import Authority, ServerNames
from trust.certificates import (
    check_issued,
    dns_names_of,
    fingerprint,
    identity_of,
    ip_addresses_of,
    to_der,
)
from trust.errors import CertificateRefused, FilesUnusable, KeyUnreadable, NameInvalid
from trust.files import ReloadedAuthority, ReloadedCredentials
from trust.identity import Kind, dns_name_of, nodes_name_of


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Issuer:
    """Issues for the own domain."""

    def __init__(
        self,
        section: AuthoritySection,
        own_domain: str,
        held: ReloadedCredentials,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        passphrase = Path(section.passphrase_file) if section.passphrase_file else None
        self._files = ReloadedAuthority(Path(section.directory), passphrase)
        self.own_domain = own_domain
        self._held = held
        self._machine_life = timedelta(hours=section.machine_life_h)
        #: How long after its end a certificate still proves whose it was.
        self.recovery = timedelta(days=section.recovery_days)
        self.now = now

    def authority(self) -> Authority:
        """The authority as its files have it now. Raises `AuthorityNotHeld` when they cannot be used."""
        try:
            found = self._files.current(self.now())
        except (FilesUnusable, KeyUnreadable) as error:
            raise AuthorityNotHeld(
                f"the authority of {self.own_domain} cannot be used: {error}",
                domain=self.own_domain,
            ) from error
        if found.identity.domain != self.own_domain or found.identity.is_root:
            raise AuthorityNotHeld(
                f"{self._files.directory} holds {found.identity}, and this controller is of domain {self.own_domain}",
                domain=self.own_domain,
            )
        return found

    def root_fingerprint(self) -> str:
        """Fingerprint of the root that all of it rests on. Raises `AuthorityNotHeld`."""
        return fingerprint(self.authority().certificates[-1])

    def issue(self, public_key: object, kind: Kind, name: str) -> x509.Certificate:
        """A leaf for a machine of the own domain. Raises `AuthorityNotHeld`."""
        try:
            leaf = self.authority().issue(
                public_key, kind, name, self.now(), life=self._machine_life
            )
        except (CertificateRefused, NameInvalid) as error:
            raise AuthorityNotHeld(
                f"the authority of {self.own_domain} cannot issue: {error}",
                domain=self.own_domain,
            ) from error
        self._check_known(leaf)
        return leaf

    def issue_own(self, public_key: object) -> tuple[x509.Certificate, ...]:
        """The controller's own leaf anew, with the names of the present one, and what it is shown with.

        Raises `AuthorityNotHeld`, `CertificateRefused`, `NameInvalid`.
        """
        present, authority = self._held.current.leaf, self.authority()
        made = dns_name_of(authority.path, authority.identity.trust_domain)
        dns = [name for name in dns_names_of(present) if name not in (made, nodes_name_of(made))]
        leaf = authority.issue(
            public_key,
            Kind.CONTROLLER,
            identity_of(present).name,
            self.now(),
            servers=ServerNames(dns, ip_addresses_of(present)),
        )
        return (leaf, *authority.intermediates)

    def has_replaced(self, leaf: x509.Certificate) -> bool:
        """Tells whether a leaf of the own domain was issued by another certificate of the authority than the present.

        Raises `AuthorityNotHeld`.
        """
        try:
            check_issued(leaf, [self.authority().certificate], leaf.not_valid_after_utc)
        except CertificateRefused:
            return True
        return False

    def answer(self, leaf: x509.Certificate) -> join_service_pb2.IssuedCertificate:
        """A leaf as its bearer is told of it. Raises `AuthorityNotHeld`."""
        issued = join_service_pb2.IssuedCertificate(
            certificates=[to_der(c) for c in (leaf, *self.authority().intermediates)]
        )
        issued.expire_time.FromDatetime(leaf.not_valid_after_utc)
        return issued

    def _check_known(self, leaf: x509.Certificate) -> None:
        """What is issued must be taken here, else its bearer is locked out with it. Raises `AuthorityNotHeld`."""
        known = self._held.current.authorities
        try:
            check_issued(
                leaf, [c for c in known if identity_of(c).domain == self.own_domain], self.now()
            )
        except CertificateRefused as error:
            raise AuthorityNotHeld(
                f"{self._files.directory} holds another authority of {self.own_domain} than the one that issued this "
                "controller's own certificate, which comes first; it is renewed within minutes",
                domain=self.own_domain,
            ) from error
