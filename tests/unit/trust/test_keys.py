import subprocess
from pathlib import Path

import pytest

from trust.errors import KeyUnreadable
from trust.keys import (
    MAX_KEY_BYTES,
    is_encrypted,
    is_tls_key,
    new_signing_key,
    new_tls_key,
    read_signing_key,
    read_tls_key,
    to_pem,
)

PASSPHRASE = b"correct horse battery"


def test_a_key_reads_back_and_only_with_its_passphrase() -> None:
    key = new_tls_key()
    pem = to_pem(key, PASSPHRASE)
    assert is_encrypted(pem)
    assert b"PRIVATE KEY" in pem
    assert read_tls_key(pem, PASSPHRASE).private_numbers() == key.private_numbers()
    for wrong in (b"another passphrase", None):
        with pytest.raises(KeyUnreadable):
            read_tls_key(pem, wrong)


def test_a_key_in_clear_takes_no_passphrase() -> None:
    pem = to_pem(new_signing_key())
    assert not is_encrypted(pem)
    assert read_signing_key(pem)
    with pytest.raises(KeyUnreadable, match="no passphrase, and one was"):
        read_signing_key(pem, PASSPHRASE)


def test_openssl_reads_an_encrypted_key(tmp_path: Path) -> None:
    path = tmp_path / "root.key"
    path.write_bytes(to_pem(new_tls_key(), PASSPHRASE))
    done = subprocess.run(
        ["openssl", "pkey", "-in", path, "-passin", f"pass:{PASSPHRASE.decode()}", "-noout"],
        check=False,
    )
    assert done.returncode == 0


def test_one_kind_of_key_is_not_taken_for_the_other() -> None:
    with pytest.raises(KeyUnreadable, match="no ECDSA P-256"):
        read_tls_key(to_pem(new_signing_key()))
    with pytest.raises(KeyUnreadable, match="no Ed25519"):
        read_signing_key(to_pem(new_tls_key()))
    assert is_tls_key(new_tls_key().public_key())
    assert not is_tls_key(new_signing_key().public_key())


def test_a_short_passphrase_protects_nothing() -> None:
    with pytest.raises(KeyUnreadable, match="at least 12"):
        to_pem(new_tls_key(), b"short")


@pytest.mark.parametrize("data", [b"", b"not a key", b"x" * (MAX_KEY_BYTES + 1)])
def test_what_is_no_key_is_refused(data: bytes) -> None:
    with pytest.raises(KeyUnreadable):
        read_tls_key(data)
