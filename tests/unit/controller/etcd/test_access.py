from __future__ import annotations

from pathlib import Path

import pytest

from controller.etcd.access import Access, Password, TlsFiles
from controller.etcd.errors import EtcdRefused

TLS = TlsFiles(Path("ca.pem"))


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("127.0.0.1:2379", "127.0.0.1:2379"),
        ("localhost:2379", "localhost:2379"),
        ("http://127.0.0.1:2379/", "127.0.0.1:2379"),
        ("[::1]:2379", "[::1]:2379"),
    ],
)
def test_loopback_needs_no_tls(endpoint: str, address: str) -> None:
    assert Access([endpoint]).addresses() == (address,)


def test_elsewhere_needs_tls() -> None:
    with pytest.raises(EtcdRefused, match="give TLS files"):
        Access(["etcd.example:2379"]).addresses()
    assert Access(["https://etcd.example:2379"], TLS).addresses() == ("etcd.example:2379",)


@pytest.mark.parametrize(
    ("endpoint", "tls"), [("https://127.0.0.1:2379", None), ("http://127.0.0.1:2379", TLS)]
)
def test_the_scheme_must_agree_with_the_tls_settings(endpoint: str, tls: TlsFiles | None) -> None:
    with pytest.raises(EtcdRefused, match="use https with TLS files, http without"):
        Access([endpoint], tls).addresses()


@pytest.mark.parametrize("endpoint", ["", "127.0.0.1", "127.0.0.1:", ":2379", "127.0.0.1:etcd"])
def test_an_endpoint_is_host_and_port(endpoint: str) -> None:
    with pytest.raises(EtcdRefused, match="expected host:port"):
        Access([endpoint]).addresses()


def test_at_least_one_endpoint_is_needed() -> None:
    with pytest.raises(EtcdRefused, match="name at least one"):
        Access([]).addresses()


def test_a_missing_certificate_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EtcdRefused, match=r"cannot read .*ca\.pem"):
        TlsFiles(tmp_path / "ca.pem").read()


def test_a_password_is_never_shown() -> None:
    assert "secret" not in repr(Access(["127.0.0.1:1"], password=Password("user", "secret")))
