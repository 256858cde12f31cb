import os
from pathlib import Path

import pytest

from tests.certificates import TRUST_DOMAIN, CertificateTree
from trust.errors import FilesUnusable
from trust.files import (
    IDENTITY_FILE,
    ROOTS_FILE,
    ReloadedCredentials,
    TrustFiles,
    read_roots,
    write_file,
    write_identity,
)
from trust.identity import Kind
from trust.keys import new_tls_key, to_pem


@pytest.fixture
def files(certificate_tree: CertificateTree, tmp_path: Path) -> TrustFiles:
    return certificate_tree.leaf("edge-zone-a1", Kind.NODE, "n1", into=tmp_path / "n1")


def test_credentials_read_back_and_know_their_place(
    certificate_tree: CertificateTree, files: TrustFiles
) -> None:
    credentials = files.read()
    assert credentials.identity.principal == "node:n1"
    assert credentials.path == ("global", "region-a", "edge-zone-a1")
    assert credentials.authorities == certificate_tree.authorities["edge-zone-a1"].certificates
    assert credentials.verified(certificate_tree.made_at).leaf == credentials.leaf
    assert credentials.controller_name() == f"edge-zone-a1.region-a.global.{TRUST_DOMAIN}"
    assert credentials.controller_name(levels_up=1) == f"region-a.global.{TRUST_DOMAIN}"
    assert credentials.controller_name(levels_up=9) == f"global.{TRUST_DOMAIN}"
    assert credentials.roots == certificate_tree.root.certificates
    assert credentials.chain_pem.count(b"BEGIN") == 4
    assert "key" not in repr(credentials)


def test_a_private_file_is_its_owners(files: TrustFiles) -> None:
    assert files.key.stat().st_mode & 0o777 == 0o600
    files.key.chmod(0o644)
    with pytest.raises(FilesUnusable, match="chmod 600"):
        files.read()


def test_key_and_chain_may_lie_in_files_of_their_own(files: TrustFiles, tmp_path: Path) -> None:
    credentials = files.read()
    apart = TrustFiles(tmp_path / "chain.pem", tmp_path / "key.pem", files.roots)
    write_file(apart.certificate, credentials.chain_pem, private=False)
    write_file(apart.key, credentials.key_pem, private=True)
    assert apart.read().certificates == credentials.certificates
    write_file(apart.key, to_pem(new_tls_key()), private=True)
    with pytest.raises(FilesUnusable, match="is not the key of"):
        apart.read()


@pytest.mark.parametrize("name", [IDENTITY_FILE, ROOTS_FILE])
@pytest.mark.parametrize("data", [None, b"", b"garbage", b"x" * 200_000])
def test_missing_and_broken_files_are_named(
    files: TrustFiles, name: str, data: bytes | None
) -> None:
    path = files.certificate.with_name(name)
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)
    with pytest.raises(FilesUnusable, match=name):
        files.read()


def test_roots_that_do_not_fit_the_chain_are_refused(files: TrustFiles, tmp_path: Path) -> None:
    other = CertificateTree(tmp_path / "other", {"global": ""})
    write_file(files.roots, to_pem_of(other), private=False)
    with pytest.raises(FilesUnusable, match="neither a trusted root"):
        files.read()


def to_pem_of(tree: CertificateTree) -> bytes:
    return tree.leaf("global", Kind.NODE, "n1").roots.read_bytes()


def test_a_renewal_is_seen_and_a_broken_one_is_not_taken(
    certificate_tree: CertificateTree, files: TrustFiles
) -> None:
    held = ReloadedCredentials(files)
    first = held.current
    assert not held.reload()
    certificate_tree.leaf("edge-zone-a1", Kind.NODE, "n1", into=files.certificate.parent)
    assert held.reload()
    second = held.current
    assert second.leaf != first.leaf
    files.certificate.write_bytes(b"torn")
    for _ in range(2):
        with pytest.raises(FilesUnusable):
            held.reload()
    assert held.current is second
    certificate_tree.leaf("edge-zone-a1", Kind.NODE, "n1", into=files.certificate.parent)
    assert held.reload()


def test_a_file_touched_without_a_change_is_no_renewal(files: TrustFiles) -> None:
    held = ReloadedCredentials(files)
    os.utime(files.certificate, (1, 1))
    assert not held.reload()


def test_a_file_is_not_overwritten_unless_it_may_be(tmp_path: Path) -> None:
    path = tmp_path / "root.key"
    write_file(path, b"one", private=True, replace=False)
    with pytest.raises(FilesUnusable, match="not overwritten"):
        write_file(path, b"two", private=True, replace=False)
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FilesUnusable, match="cannot be written"):
        write_file(tmp_path / "missing" / "file", b"", private=True)


def test_an_identity_is_written_whole(certificate_tree: CertificateTree, tmp_path: Path) -> None:
    key = new_tls_key()
    zone = certificate_tree.authorities["edge-zone-a1"]
    leaf = zone.issue(key.public_key(), Kind.USER, "alice", certificate_tree.made_at)
    write_identity(tmp_path, to_pem(key), (leaf, *zone.intermediates))
    assert read_roots(certificate_tree.leaf("global", Kind.NODE, "n").roots)
    assert (tmp_path / IDENTITY_FILE).read_bytes().startswith(to_pem(key))
