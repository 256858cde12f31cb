"""What an installer must name before anything is dialled, and what stays on the disk of a machine that waits."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from nodeagent.enrolling import KEY_FILE, enrol_into, pinned_roots, recover_in
from nodeagent.errors import SettingsInvalid
from nodeagent.joining import JoiningUnavailable
from tests.certificates import CertificateTree
from trust.certificates import fingerprint
from trust.files import write_roots

TOKEN = f"global.t1.{'0' * 64}"


def test_somebody_must_vouch_for_the_root(
    certificate_tree: CertificateTree, tmp_path: Path
) -> None:
    with pytest.raises(SettingsInvalid, match="--root-fingerprint"):
        pinned_roots(tmp_path, "", None)
    with pytest.raises(SettingsInvalid, match="64 hexadecimal"):
        pinned_roots(tmp_path, "abc", None)
    root = certificate_tree.root.certificate
    written = ":".join(fingerprint(root)[i : i + 2] for i in range(0, 64, 2)).upper()
    assert pinned_roots(tmp_path, written, None).of([root]) == (root,)
    write_roots(tmp_path, [root])
    assert pinned_roots(tmp_path, "", None).roots == (root,)
    with pytest.raises(SettingsInvalid, match="cannot be read"):
        pinned_roots(tmp_path, "", tmp_path / "none.pem")


async def test_the_key_is_kept_while_nobody_answers(
    certificate_tree: CertificateTree, tmp_path: Path
) -> None:
    write_roots(tmp_path, certificate_tree.root.certificates)
    pinned = pinned_roots(tmp_path, "", None)
    kept = []
    for _ in range(2):
        with pytest.raises(JoiningUnavailable, match="refused"):
            await enrol_into(tmp_path, ["127.0.0.1:1"], TOKEN, "n1", pinned, 0, lambda text: None)
        kept.append((tmp_path / KEY_FILE).read_bytes())
    assert kept[0] == kept[1]
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600


async def test_what_is_no_token_is_said_before_anything_is_dialled(tmp_path: Path) -> None:
    pinned = pinned_roots(tmp_path, "0" * 64, None)
    with pytest.raises(SettingsInvalid, match=r"DOMAIN\.ID\.SECRET"):
        await enrol_into(tmp_path, ["127.0.0.1:1"], "abc", "n1", pinned, 0, lambda text: None)
    with pytest.raises(SettingsInvalid, match="cannot be read"):
        await recover_in(tmp_path, ["127.0.0.1:1"], 0, lambda text: None)
