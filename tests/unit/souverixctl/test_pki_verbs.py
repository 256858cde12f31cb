"""Certificates made on the command line, in real files; the openssl command reads what is made."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

from souverixctl.errors import ExitCode
from tests.unit.souverixctl.scripted import Ran, ctl
from trust.files import TrustFiles

PASSPHRASE = "correct horse battery"


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_text(PASSPHRASE + "\n")
    return tmp_path


async def pki(*arguments: str) -> Ran:
    ran = await ctl("pki", *arguments)
    assert ran.exit_code == ExitCode.OK, ran.err
    return ran


async def ceremony() -> None:
    await pki(
        "init", "--trust-domain", "fleet.example", "--passphrase-file", "secret", "--out", "root"
    )
    above = ("--authority", "root", "--passphrase-file", "secret")
    await pki("issue-ca", "global", *above, "--out", "ca-global")
    await pki("issue-ca", "region-a", "--authority", "ca-global", "--out", "ca-region-a")


async def test_from_the_root_to_a_controller(at: Path) -> None:
    await ceremony()
    await pki(
        *("issue", "controller", "region-a-control", "--authority", "ca-region-a"),
        *("--ip", "127.0.0.1", "--out", "tls"),
    )
    credentials = TrustFiles.in_directory(at / "tls").read()
    assert (
        str(credentials.identity) == "spiffe://fleet.example/region-a/controller/region-a-control"
    )
    assert credentials.path == ("global", "region-a")
    ran = await pki("inspect", "tls", "-o", "json")
    leaf = json.loads(ran.out)["certificates"][0]
    name = "region-a.global.fleet.example"
    assert leaf["serves"] == [name, f"_nodes.{name}", "127.0.0.1"]
    assert "good now" in ran.err


async def test_the_root_is_encrypted_and_its_fingerprint_is_printed(at: Path) -> None:
    ran = await pki(
        "init", "--trust-domain", "fleet.example", "--passphrase-file", "secret", "--out", "root"
    )
    assert b"ENCRYPTED" in (at / "root" / "ca-key.pem").read_bytes()
    assert (at / "root" / "ca-key.pem").stat().st_mode & 0o777 == 0o600
    command = ["openssl", "x509", "-in", "root/roots.pem", "-noout", "-fingerprint", "-sha256"]
    told = await asyncio.to_thread(subprocess.check_output, command, text=True)
    digits = told.strip().partition("=")[2].replace(":", "").lower()
    assert digits in ran.out.replace(" ", "")


async def test_a_key_need_not_travel(at: Path) -> None:
    await ceremony()
    await pki("request", "--authority-key", "--out", "ca-zone")
    await pki(
        *("issue-ca", "edge-zone-a1", "--authority", "ca-region-a", "--no-delegate"),
        *("--csr", "ca-zone/request.csr", "--out", "for-zone"),
    )
    assert not (at / "for-zone" / "ca-key.pem").exists()
    for name in ("ca.pem", "roots.pem"):
        (at / "for-zone" / name).rename(at / "ca-zone" / name)
    await pki("request", "--out", "gw")
    await pki(
        *("issue", "node", "gw-7", "--authority", "ca-zone"),
        *("--csr", "gw/request.csr", "--life", "2h", "--out", "gw"),
    )
    files = TrustFiles(at / "gw/chain.pem", at / "gw/key.pem", at / "gw/roots.pem")
    assert files.read().path == ("global", "region-a", "edge-zone-a1")
    assert "good now" in (await pki("inspect", "gw")).err


async def test_nothing_is_overwritten_unless_told(at: Path) -> None:
    await ceremony()
    issue = ("issue", "user", "alice", "--authority", "ca-region-a", "--out", "alice")
    await pki(*issue)
    before = (at / "alice/identity.pem").read_bytes()
    for arguments in (
        issue,
        ("init", "--trust-domain", "x.example", "--passphrase-file", "secret", "--out", "root"),
        ("issue-ca", "region-b", "--authority", "ca-global", "--out", "ca-region-a"),
    ):
        ran = await ctl("pki", *arguments)
        assert ran.exit_code == ExitCode.CONFLICT
        assert "not overwritten" in ran.err
    assert (at / "alice/identity.pem").read_bytes() == before
    await pki(*issue, "--replace")
    assert (at / "alice/identity.pem").read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("issue", "user", "al ice", "--authority", "ca-region-a", "--out", "new"), "is no name"),
        (("issue", "user", "a", "--authority", "missing", "--out", "new"), "cannot be read"),
        (
            ("issue", "user", "a", "--authority", "ca-region-a", "--ip", "::1", "--out", "new"),
            "serves nobody",
        ),
        (
            ("issue-ca", "global", "--authority", "ca-region-a", "--out", "new"),
            "not below it",
        ),
        (
            ("issue-ca", "x", "--authority", "root", "--passphrase-file", "no", "--out", "new"),
            "No such file",
        ),
        (
            ("init", "--trust-domain", "Fleet!", "--passphrase-file", "secret", "--out", "new"),
            "no trust domain",
        ),
        (
            ("init", "--trust-domain", "a.b", "--passphrase-file", "short", "--out", "new"),
            "at least 12",
        ),
    ],
)
async def test_what_cannot_be_made_says_why_and_leaves_nothing(
    at: Path, arguments: tuple[str, ...], said: str
) -> None:
    await ceremony()
    (at / "short").write_text("short")
    ran = await ctl("pki", *arguments)
    assert ran.exit_code == ExitCode.USAGE
    assert said in ran.err
    assert not (at / "new").exists()


async def test_a_wrong_passphrase_opens_nothing(at: Path) -> None:
    await ceremony()
    (at / "guess").write_text("another passphrase")
    ran = await ctl(
        *("pki", "issue-ca", "region-b", "--authority", "root"),
        *("--passphrase-file", "guess", "--out", "new"),
    )
    assert ran.exit_code == ExitCode.USAGE
    assert "another passphrase" in ran.err


async def test_a_chain_that_is_not_good_ends_with_its_own_code(at: Path) -> None:
    await ceremony()
    await pki("issue", "user", "alice", "--authority", "ca-region-a", "--out", "alice")
    await pki(
        "init", "--trust-domain", "fleet.example", "--passphrase-file", "secret", "--out", "other"
    )
    ran = await ctl("pki", "inspect", "alice", "--roots", "other/roots.pem")
    assert ran.exit_code == ExitCode.NOT_INTACT
    (at / "alice/roots.pem").unlink()
    ran = await pki("inspect", "alice")
    assert "nothing was verified" in ran.err
