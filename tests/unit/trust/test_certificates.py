"""What makes a chain good, and each way in which one is not. Times are given, so nobody waits for an expiry."""

import secrets
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from tests.certificates import CertificateTree, authority_below
from trust.authority import Authority, new_root
from trust.certificates import (
    MAX_CHAIN,
    MAX_PEM_BYTES,
    check_issued,
    fingerprint,
    identity_of,
    parse_der,
    parse_pem,
    path_to_root,
    to_der,
    to_pem,
    verify_authorities,
    verify_chain,
)
from trust.errors import CertificateRefused, Reason, TrustError
from trust.identity import Kind
from trust.keys import new_tls_key


@pytest.fixture
def zone(certificate_tree: CertificateTree) -> Authority:
    return certificate_tree.authorities["edge-zone-a1"]


def presented(
    authority: Authority, at: datetime, kind: Kind = Kind.NODE, name: str = "n1"
) -> tuple[x509.Certificate, ...]:
    leaf = authority.issue(new_tls_key().public_key(), kind, name, at)
    return (leaf, *authority.intermediates)


def reason_of(
    chain: tuple[x509.Certificate, ...], tree: CertificateTree, at: datetime | None = None
) -> Reason:
    with pytest.raises(CertificateRefused) as refused:
        verify_chain(chain, tree.root.certificates, at or tree.made_at)
    return refused.value.reason


def forged(
    issuer: Authority,
    uris: list[str],
    *,
    ca: bool | None = False,
    names: list[x509.GeneralName] | None = None,
    permitted: list[str] | None = None,
) -> tuple[Authority, x509.Certificate]:
    """A certificate as an authority in hostile hands would make it: its key signs whatever it likes."""
    key = new_tls_key()
    now = datetime.now(UTC)
    alternative = [*(x509.UniformResourceIdentifier(uri) for uri in uris), *(names or [])]
    builder = (
        x509.CertificateBuilder()
        .subject_name(
            x509.Name(
                [x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, f"forged {secrets.token_hex(4)}")]
            )
        )
        .issuer_name(issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]), False)
        .add_extension(
            x509.KeyUsage(True, False, False, False, False, bool(ca), False, False, False), True
        )
    )
    if alternative:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternative), False)
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), True)
    if permitted is not None:
        constraints = x509.NameConstraints([x509.DNSName(name) for name in permitted], None)
        builder = builder.add_extension(constraints, True)
    certificate = builder.sign(issuer.key, hashes.SHA256())
    return Authority(key, (certificate, *issuer.certificates)), certificate


def test_a_chain_is_good_in_any_order_and_with_the_root(
    certificate_tree: CertificateTree, zone: Authority
) -> None:
    leaf, *above = presented(zone, certificate_tree.made_at)
    roots, at = certificate_tree.root.certificates, certificate_tree.made_at
    straight = verify_chain((leaf, *above), roots, at)
    assert verify_chain((leaf, *reversed(above), *roots), roots, at) == straight
    assert straight.authority == zone.certificate
    assert straight.identity.principal == "node:n1"
    assert path_to_root((leaf, *above), roots) == straight.path


def test_a_chain_is_good_while_all_of_it_is(
    certificate_tree: CertificateTree, zone: Authority
) -> None:
    chain = presented(zone, certificate_tree.made_at)
    assert reason_of(chain, certificate_tree, certificate_tree.made_at - timedelta(days=1)) is (
        Reason.NOT_YET_VALID
    )
    assert reason_of(chain, certificate_tree, certificate_tree.made_at + timedelta(hours=25)) is (
        Reason.EXPIRED
    )
    old = certificate_tree.authorities["region-a"]
    brief_key = new_tls_key()
    brief = old.issue_authority(
        brief_key.public_key(), "edge-zone-a7", certificate_tree.made_at, life=timedelta(minutes=1)
    )
    authority = Authority(brief_key, (brief, *old.certificates))
    chain = presented(authority, certificate_tree.made_at)
    assert reason_of(chain, certificate_tree, certificate_tree.made_at + timedelta(minutes=2)) is (
        Reason.EXPIRED
    )


def test_a_chain_to_another_root_is_not_trusted(certificate_tree: CertificateTree) -> None:
    root = new_root(new_tls_key(), "souverix.test", "global", certificate_tree.made_at)
    stranger = authority_below(root, "global", certificate_tree.made_at)
    chain = presented(stranger, certificate_tree.made_at)
    assert reason_of(chain, certificate_tree) is Reason.UNKNOWN_ISSUER
    assert reason_of((*chain, *root.certificates), certificate_tree) is Reason.UNKNOWN_ISSUER


def test_a_gap_and_what_does_not_belong_are_refused(
    certificate_tree: CertificateTree, zone: Authority
) -> None:
    leaf, own, *above = presented(zone, certificate_tree.made_at)
    assert reason_of((leaf, *above), certificate_tree) is Reason.UNKNOWN_ISSUER
    alien = certificate_tree.authorities["region-b"].certificate
    assert reason_of((leaf, own, *above, alien), certificate_tree) is Reason.MALFORMED
    many = (leaf, own, *above, *[alien] * MAX_CHAIN)
    assert reason_of(many, certificate_tree) is Reason.TOO_LARGE


def test_an_authority_names_members_of_its_own_domain_only(
    certificate_tree: CertificateTree, zone: Authority
) -> None:
    for uri in (
        "spiffe://souverix.test/region-a/controller/region-a-control",
        "spiffe://souverix.test/edge-zone-a2/node/n1",
        "spiffe://elsewhere.test/edge-zone-a1/node/n1",
    ):
        _, leaf = forged(zone, [uri])
        assert reason_of((leaf, *zone.intermediates), certificate_tree) is Reason.OUT_OF_REACH


def test_an_authority_that_calls_itself_another_domains_is_not_the_known_one(
    certificate_tree: CertificateTree, zone: Authority
) -> None:
    """Its chain is good, but by another path; who knows the domain's authority is not deceived."""
    claimed = ["spiffe://souverix.test/region-b/ca/region-b"]
    below = ["x.edge-zone-a1.region-a.global.souverix.test"]
    false_region, _ = forged(zone, claimed, ca=True, permitted=below)
    _, leaf = forged(false_region, ["spiffe://souverix.test/region-b/user/admin"])
    at, roots = certificate_tree.made_at, certificate_tree.root.certificates
    chain = verify_chain((leaf, *false_region.intermediates), roots, at)
    assert chain.path == ("global", "region-a", "edge-zone-a1", "region-b")
    with pytest.raises(CertificateRefused) as refused:
        check_issued(leaf, [certificate_tree.authorities["region-b"].certificate], at)
    assert refused.value.reason is Reason.UNKNOWN_ISSUER


def test_an_authority_cannot_widen_the_names_it_was_given(
    certificate_tree: CertificateTree, zone: Authority
) -> None:
    _, leaf = forged(
        zone,
        ["spiffe://souverix.test/edge-zone-a1/controller/a1-control"],
        names=[x509.DNSName("region-a.global.souverix.test")],
    )
    assert reason_of((leaf, *zone.intermediates), certificate_tree) is Reason.OUT_OF_REACH
    own = ["spiffe://souverix.test/cluster-1/ca/cluster-1"]
    for permitted in (None, ["region-a.global.souverix.test"]):
        cluster, _ = forged(zone, own, ca=True, permitted=permitted)
        _, leaf = forged(cluster, ["spiffe://souverix.test/cluster-1/node/n1"])
        assert reason_of((leaf, *cluster.intermediates), certificate_tree) is Reason.OUT_OF_REACH


def test_a_leaf_issues_nothing(certificate_tree: CertificateTree, zone: Authority) -> None:
    for uri, ca in (
        ("spiffe://souverix.test/edge-zone-a1/node/n1", False),
        ("spiffe://souverix.test/edge-zone-a1/node/n1", True),
        ("spiffe://souverix.test/edge-zone-a1/ca/edge-zone-a1", False),
        ("spiffe://souverix.test/edge-zone-a1/ca/edge-zone-a1", None),
    ):
        node, _ = forged(
            zone, [uri], ca=ca, permitted=["edge-zone-a1.region-a.global.souverix.test"]
        )
        _, leaf = forged(node, ["spiffe://souverix.test/edge-zone-a1/user/admin"])
        chain = (leaf, *node.intermediates)
        assert reason_of(chain, certificate_tree) is Reason.NOT_AN_AUTHORITY


def test_an_authoritys_certificate_admits_nobody(
    certificate_tree: CertificateTree, zone: Authority
) -> None:
    assert reason_of(zone.intermediates, certificate_tree) is Reason.NOT_A_LEAF
    with pytest.raises(CertificateRefused) as refused:
        check_issued(zone.certificate, [zone.certificates[1]], certificate_tree.made_at)
    assert refused.value.reason is Reason.NOT_A_LEAF


@pytest.mark.parametrize(
    "uris",
    [
        [],
        ["https://souverix.test/edge-zone-a1/node/n1"],
        [
            "spiffe://souverix.test/edge-zone-a1/node/n1",
            "spiffe://souverix.test/edge-zone-a1/node/n2",
        ],
    ],
)
def test_a_certificate_names_exactly_one_bearer(
    certificate_tree: CertificateTree, zone: Authority, uris: list[str]
) -> None:
    _, leaf = forged(zone, uris)
    assert reason_of((leaf, *zone.intermediates), certificate_tree) is Reason.NO_IDENTITY


def test_a_leaf_is_judged_by_the_known_authorities_alone(
    certificate_tree: CertificateTree, zone: Authority
) -> None:
    at = certificate_tree.made_at
    leaf = presented(zone, at)[0]
    renewed = authority_below(certificate_tree.authorities["region-a"], "edge-zone-a1", at)
    assert check_issued(leaf, [renewed.certificate, zone.certificate], at) == zone.certificate
    for known in ([], [renewed.certificate], [certificate_tree.root.certificate]):
        with pytest.raises(CertificateRefused) as refused:
            check_issued(leaf, known, at)
        assert refused.value.reason is Reason.UNKNOWN_ISSUER
    with pytest.raises(CertificateRefused) as refused:
        check_issued(leaf, [zone.certificate], at + timedelta(days=2))
    assert refused.value.reason is Reason.EXPIRED


def test_authorities_are_verified_without_a_leaf(
    certificate_tree: CertificateTree, zone: Authority
) -> None:
    roots, at = certificate_tree.root.certificates, certificate_tree.made_at
    assert verify_authorities(zone.intermediates, roots, at) == zone.certificates
    assert verify_authorities(roots, roots, at) == roots
    with pytest.raises(CertificateRefused):
        verify_authorities(zone.intermediates[:1], roots, at)


def test_pem_and_der_read_back_and_bounds_hold(zone: Authority) -> None:
    certificates = zone.certificates
    assert parse_pem(b"a comment\n" + to_pem(certificates)) == certificates
    assert parse_der(to_der(certificates[0])) == certificates[0]
    assert len(fingerprint(certificates[0])) == 64
    for data, reason in (
        (b"", Reason.MALFORMED),
        (b"x" * (MAX_PEM_BYTES + 1), Reason.TOO_LARGE),
        (to_pem(certificates[:1] * (MAX_CHAIN + 1)), Reason.TOO_LARGE),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", Reason.MALFORMED),
    ):
        with pytest.raises(CertificateRefused) as refused:
            parse_pem(data)
        assert refused.value.reason is reason


def test_a_version_that_there_is_not_is_refused(
    certificate_tree: CertificateTree, zone: Authority
) -> None:
    leaf, *_ = presented(zone, certificate_tree.made_at)
    version_3, version_67 = b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x42"
    assert version_3 in to_der(leaf)
    with pytest.raises(CertificateRefused) as refused:
        parse_der(to_der(leaf).replace(version_3, version_67, 1))
    assert refused.value.reason is Reason.MALFORMED


def test_a_mutated_certificate_is_refused_and_never_crashes(
    certificate_tree: CertificateTree, zone: Authority
) -> None:
    chance = Random(4)
    leaf, *above = presented(zone, certificate_tree.made_at)
    good = to_der(leaf)
    for _ in range(500):
        bad = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        if bytes(bad) == good:
            continue
        with pytest.raises(TrustError):
            verify_chain(
                (parse_der(bytes(bad)), *above),
                certificate_tree.root.certificates,
                certificate_tree.made_at,
            )
    assert identity_of(leaf).name == "n1"
