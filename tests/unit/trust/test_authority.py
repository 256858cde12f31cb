"""What certificates of ours contain; the openssl command is asked where it can judge."""

import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.certificates import TRUST_DOMAIN, CertificateTree, authority_below
from trust.authority import (
    BACKDATED,
    MAX_REQUEST_BYTES,
    Authority,
    ServerNames,
    describe,
    new_request,
    renewal_time,
    requested_key,
)
from trust.certificates import dns_names_of, identity_of, to_pem, verify_chain
from trust.errors import CertificateRefused, NameInvalid, Reason
from trust.identity import Kind
from trust.keys import new_signing_key, new_tls_key


def issued(authority: Authority, tree: CertificateTree, kind: Kind, name: str) -> x509.Certificate:
    return authority.issue(new_tls_key().public_key(), kind, name, tree.made_at)


def openssl_verifies(
    tmp_path: Path, tree: CertificateTree, chain: tuple[x509.Certificate, ...], *options: str
) -> bool:
    for name, certificates in (
        ("root", tree.root.certificates),
        ("leaf", chain[:1]),
        ("between", chain[1:]),
    ):
        (tmp_path / name).write_bytes(to_pem(certificates))
    command = ["openssl", "verify", "-x509_strict", "-CAfile", str(tmp_path / "root"), *options]
    command += ["-untrusted", str(tmp_path / "between"), str(tmp_path / "leaf")]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("kind", [Kind.CONTROLLER, Kind.NODE, Kind.RELAY, Kind.USER])
def test_a_leaf_is_good_to_us_and_to_openssl(
    certificate_tree: CertificateTree, tmp_path: Path, kind: Kind
) -> None:
    zone = certificate_tree.authorities["edge-zone-a1"]
    leaf = issued(zone, certificate_tree, kind, "somebody")
    presented = (leaf, *zone.intermediates)
    chain = verify_chain(presented, certificate_tree.root.certificates, certificate_tree.made_at)
    assert str(chain.identity) == f"spiffe://{TRUST_DOMAIN}/edge-zone-a1/{kind}/somebody"
    assert chain.path == ("global", "region-a", "edge-zone-a1")
    assert openssl_verifies(tmp_path, certificate_tree, presented, "-purpose", "sslclient")
    serves = kind in (Kind.CONTROLLER, Kind.RELAY)
    assert (
        openssl_verifies(tmp_path, certificate_tree, presented, "-purpose", "sslserver") is serves
    )


def test_a_controller_bears_the_name_of_its_domain_and_what_it_was_given(
    certificate_tree: CertificateTree,
) -> None:
    zone = certificate_tree.authorities["edge-zone-a1"]
    below = f"c1.edge-zone-a1.region-a.global.{TRUST_DOMAIN}"
    leaf = zone.issue(
        new_tls_key().public_key(),
        Kind.CONTROLLER,
        "a1-control",
        certificate_tree.made_at,
        servers=ServerNames(dns=[below], ip=["127.0.0.1", "::1"]),
    )
    name = f"edge-zone-a1.region-a.global.{TRUST_DOMAIN}"
    assert dns_names_of(leaf) == (name, f"_nodes.{name}", below)
    relay = issued(zone, certificate_tree, Kind.RELAY, "r1")
    assert dns_names_of(relay) == (f"_nodes.{name}",)
    assert describe(leaf)["serves"] == [*dns_names_of(leaf), "127.0.0.1", "::1"]
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}


def test_an_authority_names_no_server_outside_its_domain(
    certificate_tree: CertificateTree,
) -> None:
    zone = certificate_tree.authorities["edge-zone-a1"]
    for name in (f"region-a.global.{TRUST_DOMAIN}", f"edge-zone-a2.region-a.global.{TRUST_DOMAIN}"):
        with pytest.raises(NameInvalid, match="names servers below"):
            zone.issue(
                new_tls_key().public_key(),
                Kind.CONTROLLER,
                "a1-control",
                certificate_tree.made_at,
                servers=ServerNames(dns=[name]),
            )


def test_names_of_ones_own_need_leave_all_the_way_up(certificate_tree: CertificateTree) -> None:
    at = certificate_tree.made_at
    root_key, key = new_tls_key(), new_tls_key()
    plain = certificate_tree.root.issue_authority(root_key.public_key(), "global", at)
    above = Authority(root_key, (plain, *certificate_tree.root.certificates))
    with pytest.raises(NameInvalid, match="names servers below"):
        above.issue_authority(key.public_key(), "region-c", at, also_names=["example.net"])
    widened = certificate_tree.root.issue_authority(
        root_key.public_key(), "global", at, also_names=["example.net"]
    )
    above = Authority(root_key, (widened, *certificate_tree.root.certificates))
    region = Authority(
        key,
        (
            above.issue_authority(key.public_key(), "region-c", at, also_names=["c.example.net"]),
            *above.certificates,
        ),
    )
    leaf = region.issue(
        new_tls_key().public_key(),
        Kind.CONTROLLER,
        "c",
        at,
        servers=ServerNames(dns=["control.c.example.net"]),
    )
    assert "control.c.example.net" in dns_names_of(leaf)


def test_lives_are_bounded_by_the_authoritys_and_backdated(
    certificate_tree: CertificateTree,
) -> None:
    zone = certificate_tree.authorities["edge-zone-a1"]
    leaf = issued(zone, certificate_tree, Kind.NODE, "n1")
    begins = certificate_tree.made_at - BACKDATED
    assert abs(leaf.not_valid_before_utc - begins) < timedelta(seconds=1)
    ends = certificate_tree.made_at + timedelta(hours=24)
    assert abs(leaf.not_valid_after_utc - ends) < timedelta(seconds=1)
    assert leaf.not_valid_before_utc < renewal_time(leaf) < leaf.not_valid_after_utc
    late = zone.certificate.not_valid_after_utc - timedelta(hours=1)
    last = zone.issue(new_tls_key().public_key(), Kind.NODE, "n1", late)
    assert last.not_valid_after_utc == zone.certificate.not_valid_after_utc
    with pytest.raises(CertificateRefused) as refused:
        zone.issue(new_tls_key().public_key(), Kind.NODE, "n1", late + timedelta(days=1))
    assert refused.value.reason is Reason.EXPIRED
    with pytest.raises(CertificateRefused, match="400 days"):
        zone.issue(
            new_tls_key().public_key(),
            Kind.USER,
            "alice",
            certificate_tree.made_at,
            life=timedelta(days=401),
        )


def test_an_authority_without_leave_to_delegate_has_none_below_it(
    certificate_tree: CertificateTree, tmp_path: Path
) -> None:
    at = certificate_tree.made_at
    key = new_tls_key()
    region = certificate_tree.authorities["region-a"]
    certificate = region.issue_authority(key.public_key(), "edge-zone-a9", at, may_delegate=False)
    zone = Authority(key, (certificate, *region.certificates))
    leaf = issued(zone, certificate_tree, Kind.NODE, "n1")
    presented = (leaf, *zone.intermediates)
    assert verify_chain(presented, certificate_tree.root.certificates, at)
    below = authority_below(zone, "cluster-1", at)
    presented = (issued(below, certificate_tree, Kind.NODE, "n1"), *below.intermediates)
    with pytest.raises(CertificateRefused) as refused:
        verify_chain(presented, certificate_tree.root.certificates, at)
    assert refused.value.reason is Reason.OUT_OF_REACH
    assert not openssl_verifies(tmp_path, certificate_tree, presented)


def test_no_authority_is_made_for_a_domain_that_is_above(certificate_tree: CertificateTree) -> None:
    zone = certificate_tree.authorities["edge-zone-a1"]
    for domain in ("global", "region-a", "edge-zone-a1"):
        with pytest.raises(NameInvalid, match="not below it"):
            zone.issue_authority(new_tls_key().public_key(), domain, certificate_tree.made_at)


def test_an_authority_opens_with_its_own_key_only(certificate_tree: CertificateTree) -> None:
    zone = certificate_tree.authorities["edge-zone-a1"]
    roots, at = certificate_tree.root.certificates, certificate_tree.made_at
    opened = Authority.opened(zone.key, zone.intermediates, roots, at)
    assert opened.certificates == zone.certificates
    with pytest.raises(CertificateRefused) as refused:
        Authority.opened(new_tls_key(), zone.intermediates, roots, at)
    assert refused.value.reason is Reason.KEY_UNFIT
    with pytest.raises(CertificateRefused):
        Authority.opened(zone.key, zone.intermediates, roots, at + timedelta(days=365 * 10))
    assert "key" not in repr(opened)


def test_a_request_gives_its_key_and_nothing_else(
    certificate_tree: CertificateTree, tmp_path: Path
) -> None:
    key = new_tls_key()
    request = new_request(key)
    assert requested_key(request) == key.public_key()
    path = tmp_path / "request"
    path.write_bytes(request)
    done = subprocess.run(
        ["openssl", "req", "-inform", "DER", "-in", path, "-verify", "-noout"],
        check=False,
        capture_output=True,
    )
    assert done.returncode == 0
    leaf = certificate_tree.authorities["region-b"].issue(
        requested_key(request), Kind.NODE, "n1", certificate_tree.made_at
    )
    assert identity_of(leaf).domain == "region-b"


def test_a_request_made_by_openssl_is_taken(tmp_path: Path) -> None:
    command = "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=n1"
    done = subprocess.run(
        [*command.split(), "-keyout", tmp_path / "key"], check=True, capture_output=True
    )
    assert requested_key(done.stdout)


def _request_of(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


#: The object identifier of the curve in a key's encoding.
_P256 = b"\x2a\x86\x48\xce\x3d\x03\x01\x07"


def test_requests_for_other_keys_and_of_others_are_refused() -> None:
    unfit = [
        _request_of(rsa.generate_private_key(65537, 2048)),
        _request_of(ec.generate_private_key(ec.SECP384R1())),
    ]
    good = bytearray(new_request(new_tls_key()))
    good[-1] ^= 1
    for request in (*unfit, bytes(good)):
        with pytest.raises(CertificateRefused) as refused:
            requested_key(request)
        assert refused.value.reason in (Reason.KEY_UNFIT, Reason.MALFORMED)
    unknown_curve = bytes(good).replace(_P256, b"\x2a\x86\x48\xd3\x3d\x03\x01\x07")
    for garbage in (unknown_curve, b"", b"\x30\x80", b"-----BEGIN", b"x" * (MAX_REQUEST_BYTES + 1)):
        with pytest.raises(CertificateRefused):
            requested_key(garbage)


def test_no_leaf_is_made_for_a_key_that_tls_cannot_use(certificate_tree: CertificateTree) -> None:
    zone = certificate_tree.authorities["edge-zone-a1"]
    key = new_signing_key().public_key()
    assert isinstance(key, ed25519.Ed25519PublicKey)
    with pytest.raises(CertificateRefused) as refused:
        zone.issue(key, Kind.NODE, "n1", certificate_tree.made_at)
    assert refused.value.reason is Reason.KEY_UNFIT
