from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from controller.signing import Ed25519Signer, Ed25519Verifier
from federation.chain import key_id_of


def test_signature_is_good_for_its_message_and_key_only() -> None:
    signer, verifier = Ed25519Signer.generate(), Ed25519Verifier()
    signature = signer.sign(b"message")
    assert verifier.verify(signer.public_key, b"message", signature)
    assert not verifier.verify(signer.public_key, b"other", signature)
    assert not verifier.verify(signer.public_key, b"message", bytes(64))
    assert not verifier.verify(Ed25519Signer.generate().public_key, b"message", signature)


@pytest.mark.parametrize("key", [b"", b"short", bytes(33)])
def test_bytes_that_are_no_key_make_no_signature_good(key: bytes) -> None:
    assert not Ed25519Verifier().verify(key, b"message", bytes(64))


def test_signature_of_a_wrong_length_is_bad() -> None:
    assert not Ed25519Verifier().verify(Ed25519Signer.generate().public_key, b"m", b"short")


def test_key_id_is_a_digest_of_the_public_key() -> None:
    signer = Ed25519Signer.generate()
    assert signer.key_id == key_id_of(signer.public_key)
    assert len(signer.key_id) == 16


def test_saved_key_is_loaded_again_and_is_the_owners_alone(tmp_path: Path) -> None:
    signer = Ed25519Signer.generate()
    path = tmp_path / "key.pem"
    signer.save(path)
    assert Ed25519Signer.load(path).public_key == signer.public_key
    assert path.stat().st_mode & 0o777 == 0o600


def test_key_is_never_written_over_another(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    first = Ed25519Signer.generate()
    first.save(path)
    with pytest.raises(FileExistsError):
        Ed25519Signer.generate().save(path)
    assert Ed25519Signer.load(path).key_id == first.key_id


def test_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    with pytest.raises(ValueError, match="no Ed25519 private key"):
        Ed25519Signer.load(path)


def test_missing_or_broken_key_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Ed25519Signer.load(tmp_path / "none.pem")
    (tmp_path / "broken.pem").write_text("nothing")
    with pytest.raises(ValueError, match=r"\w"):
        Ed25519Signer.load(tmp_path / "broken.pem")
