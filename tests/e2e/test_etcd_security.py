"""The etcd log over mutual TLS with password authentication, on certificates made here."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from controller.etcd import connection
from controller.etcd.access import Access, Password, TlsFiles
from controller.log.errors import LogRefused, LogUnavailable
from controller.log.etcd_log import EtcdLog
from controller.log.port import CommitAt
from tests.e2e.etcd_logs import NONCE, PATIENCE_S, PREFIX, TTL_S, follow_until, read_all, until
from tests.etcd_process import EtcdProcess
from tests.processes import ProcessStarter

VALID_FOR = datetime.timedelta(hours=1)
PASSWORD = Password("controller", "correct-horse-battery-staple")


@dataclass(frozen=True)
class Authority:
    """A certificate authority with its files in one directory."""

    directory: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def file(self) -> Path:
        return self.directory / "ca.pem"

    def issue(self, name: str) -> TlsFiles:
        """A leaf for both ends of a connection on loopback."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _unsigned(name, self.certificate.subject, key)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
                critical=False,
            )
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
            .sign(self.key, hashes.SHA256())
        )
        files = TlsFiles(self.file, self.directory / f"{name}.pem", self.directory / f"{name}.key")
        assert files.certificate is not None
        assert files.key is not None
        files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return files


def _unsigned(
    name: str, issuer: x509.Name | None, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - VALID_FOR)
        .not_valid_after(now + VALID_FOR)
    )


def new_authority(directory: Path) -> Authority:
    directory.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _unsigned("test authority", None, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    authority = Authority(directory, key, certificate)
    authority.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return authority


@dataclass(frozen=True)
class SecuredEtcd:
    """An etcd that lets in user `controller`, below PREFIX alone, with certificates of
    `authority`.
    """

    process: EtcdProcess
    authority: Authority

    def log(
        self,
        *,
        tls: TlsFiles | None = None,
        password: Password | None = PASSWORD,
        prefix: str = PREFIX,
    ) -> EtcdLog:
        access = Access(
            endpoints=[f"https://{self.process.endpoint}"],
            tls=tls or self.authority.issue("replica"),
            password=password,
        )
        return EtcdLog(access, prefix)


@pytest.fixture
def secured(
    start_process: ProcessStarter, etcd_binary: Path, etcdctl_binary: Path, tmp_path: Path
) -> SecuredEtcd:
    authority = new_authority(tmp_path / "authority")
    server = authority.issue("server")
    process = EtcdProcess(
        start_process,
        etcd_binary,
        tmp_path / "data",
        f"--cert-file={server.certificate}",
        f"--key-file={server.key}",
        f"--trusted-ca-file={authority.file}",
        "--client-cert-auth",
        "--auth-token=simple",
        tls=True,
    )
    process.start()
    _require_login(_etcdctl(etcdctl_binary, process, server))
    return SecuredEtcd(process, authority)


def _etcdctl(binary: Path, etcd: EtcdProcess, tls: TlsFiles) -> Callable[[str], object]:
    def run(command: str) -> object:
        return subprocess.run(
            [
                binary,
                f"--endpoints=https://{etcd.endpoint}",
                f"--cacert={tls.authority}",
                f"--cert={tls.certificate}",
                f"--key={tls.key}",
                *command.split(" "),
            ],
            env={"ETCDCTL_API": "3"},
            check=True,
            capture_output=True,
            timeout=PATIENCE_S,
        )

    return run


def _require_login(etcdctl: Callable[[str], object]) -> None:
    user = PASSWORD.user
    commands: Iterable[str] = (
        "user add root --new-user-password=root",
        "user grant-role root root",
        f"user add {user} --new-user-password={PASSWORD.password}",
        f"role add {user}",
        f"role grant-permission {user} --prefix=true readwrite {PREFIX}/",
        f"user grant-role {user} {user}",
        "auth enable",
    )
    for command in commands:
        etcdctl(command)


async def test_the_log_works_over_mutual_tls_with_a_password(secured: SecuredEtcd) -> None:
    log = secured.log()
    try:
        await log.open(NONCE)
        lease = await log.campaign("a", TTL_S)
        await log.append(lease.mastership, await log.head(), b"one")
        assert await read_all(log) == [(0, b"one")]
        await lease.release()
    finally:
        await log.close()


async def test_a_token_that_is_no_longer_known_is_renewed_on_calls_and_streams(
    secured: SecuredEtcd,
) -> None:
    log, standby = secured.log(), secured.log()
    seen: list[CommitAt] = []
    try:
        await log.open(NONCE)
        await standby.open(NONCE)
        lease = await log.campaign("a", PATIENCE_S)
        following = asyncio.create_task(follow_until(standby, 2, seen))
        head = await log.append(lease.mastership, await log.head(), b"one")
        await until(lambda: len(seen) == 1, "the first commit")
        # Simple tokens live in the server's memory alone.
        secured.process.kill()
        await asyncio.to_thread(secured.process.start)
        async with asyncio.timeout(PATIENCE_S):
            await log.append(lease.mastership, head, b"two")
            await following
        assert seen == [(0, b"one"), (1, b"two")]
        assert lease.valid
        await lease.release()
        assert await log.current_master() is None
    finally:
        await log.close()
        await standby.close()


async def test_a_wrong_password_is_refused(secured: SecuredEtcd) -> None:
    log = secured.log(password=Password(PASSWORD.user, "guess"))
    try:
        with pytest.raises(LogRefused, match="does not let user 'controller' in"):
            await log.open(NONCE)
    finally:
        await log.close()


async def test_no_password_is_refused_with_the_next_step(secured: SecuredEtcd) -> None:
    log = secured.log(password=None)
    try:
        with pytest.raises(LogRefused):
            await log.open(NONCE)
    finally:
        await log.close()


async def test_a_prefix_of_someone_else_is_refused(secured: SecuredEtcd) -> None:
    log = secured.log(prefix="/souverix/global")
    try:
        with pytest.raises(LogRefused, match="permission denied"):
            await log.open(NONCE)
    finally:
        await log.close()


async def test_a_server_of_another_authority_is_not_talked_to(
    secured: SecuredEtcd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CALL_TIMEOUT_S", 0.5)
    log = secured.log(tls=new_authority(tmp_path / "stranger").issue("replica"))
    try:
        with pytest.raises(LogUnavailable, match=r"(?i)certificate|handshake|ssl"):
            await log.open(NONCE)
    finally:
        await log.close()


async def test_a_client_without_a_certificate_is_not_let_in(
    secured: SecuredEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CALL_TIMEOUT_S", 0.5)
    log = secured.log(tls=TlsFiles(secured.authority.file))
    try:
        with pytest.raises(LogUnavailable, match="no etcd member answers"):
            await log.open(NONCE)
    finally:
        await log.close()
