from __future__ import annotations

import pytest

from trust.encryption_keys import encryption_key_pem, new_encryption_key, read_encryption_key
from trust.errors import KeyUnreadable
from trust.keys import new_signing_key, to_pem


def test_a_key_is_read_as_it_was_written() -> None:
    key = new_encryption_key()
    again = read_encryption_key(encryption_key_pem(key))
    assert again.private_bytes_raw() == key.private_bytes_raw()


def test_what_is_no_key_is_refused() -> None:
    with pytest.raises(KeyUnreadable, match="no key in PEM"):
        read_encryption_key(b"-----BEGIN PRIVATE KEY-----\nnone\n-----END PRIVATE KEY-----\n")


def test_a_key_of_another_kind_is_refused() -> None:
    with pytest.raises(KeyUnreadable, match="no X25519"):
        read_encryption_key(to_pem(new_signing_key()))
