"""What a controller issues by its domain's authority, at times that are given, and when it must not."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from controller.config import AuthoritySection
from controller.enrolment.errors import AuthorityNotHeld
from controller.issuing import Issuer
from tests.certificates import CertificateTree, authority_below
from trust.authority import Authority, renewal_time
from trust.certificates import dns_names_of, ip_addresses_of
from trust.files import (
    AUTHORITY_FILE,
    AUTHORITY_KEY_FILE,
    ReloadedCredentials,
    write_authority,
    write_identity,
)
from trust.identity import Kind
from trust.keys import new_tls_key, to_pem

REGION = "region-a"
PASSPHRASE = b"a long passphrase"


class Region:
    """The issuer of region-a's controller, with a clock that stands until it is moved."""

    def __init__(self, tree: CertificateTree, directory: Path) -> None:
        self.tree = tree
        self.now: datetime = tree.made_at
        self.directory = directory / "ca"
        self.keep(tree.authorities[REGION])
        passphrase_file = directory / "passphrase"
        passphrase_file.write_bytes(PASSPHRASE + b"\n")
        self.held = ReloadedCredentials(
            tree.leaf(REGION, Kind.CONTROLLER, "region-a-control", into=directory / "tls")
        )
        section = AuthoritySection(str(self.directory), str(passphrase_file), machine_life_h=12)
        self.issuer = Issuer(section, REGION, self.held, lambda: self.now)

    def keep(self, authority: Authority) -> None:
        self.directory.mkdir(exist_ok=True)
        for name in (AUTHORITY_FILE, AUTHORITY_KEY_FILE, "roots.pem"):
            (self.directory / name).unlink(missing_ok=True)
        write_authority(self.directory, authority.certificates, to_pem(authority.key, PASSPHRASE))


@pytest.fixture
def region(certificate_tree: CertificateTree, tmp_path: Path) -> Region:
    return Region(certificate_tree, tmp_path)


def test_machines_have_certificates_of_the_configured_life(region: Region) -> None:
    region.now += timedelta(days=40)
    leaf = region.issuer.issue(new_tls_key().public_key(), Kind.NODE, "n1")
    assert leaf.not_valid_after_utc == region.now.replace(microsecond=0) + timedelta(hours=12)
    assert renewal_time(leaf) > region.now
    relay = region.issuer.issue(new_tls_key().public_key(), Kind.RELAY, "r1")
    assert dns_names_of(relay) == ("_nodes.region-a.global.souverix.test",)


def test_the_own_certificate_keeps_its_names(region: Region) -> None:
    key = new_tls_key()
    leaf, *above = region.issuer.issue_own(key.public_key())
    present = region.held.current.leaf
    assert dns_names_of(leaf) == dns_names_of(present)
    assert ip_addresses_of(leaf) == ip_addresses_of(present) != ()
    assert (leaf, *above)[1:] == region.held.current.certificates[1:]


def test_an_authority_that_has_ended_issues_nothing_and_says_so(region: Region) -> None:
    region.now += timedelta(days=4 * 365)
    with pytest.raises(AuthorityNotHeld, match="was valid until"):
        region.issuer.issue(new_tls_key().public_key(), Kind.NODE, "n1")


def test_another_domains_authority_is_refused(region: Region) -> None:
    region.keep(region.tree.authorities["region-b"])
    with pytest.raises(AuthorityNotHeld, match="this controller is of domain region-a"):
        region.issuer.authority()


def test_a_replaced_authority_issues_for_machines_once_the_controllers_own_is_of_it(
    region: Region,
) -> None:
    old = region.issuer.issue(new_tls_key().public_key(), Kind.NODE, "n1")
    assert not region.issuer.has_replaced(old)
    region.keep(authority_below(region.tree.authorities["global"], REGION, region.now))
    assert region.issuer.has_replaced(old)
    assert region.issuer.has_replaced(region.held.current.leaf)
    with pytest.raises(AuthorityNotHeld, match="renewed within minutes"):
        region.issuer.issue(new_tls_key().public_key(), Kind.NODE, "n2")
    key = new_tls_key()
    own = region.issuer.issue_own(key.public_key())
    write_identity(region.held.files.certificate.parent, to_pem(key), own)
    assert region.held.reload()
    assert region.issuer.issue(new_tls_key().public_key(), Kind.NODE, "n2")


def test_files_that_are_gone_are_told_with_their_place(region: Region) -> None:
    (region.directory / AUTHORITY_KEY_FILE).unlink()
    with pytest.raises(AuthorityNotHeld, match=AUTHORITY_KEY_FILE):
        region.issuer.authority()
