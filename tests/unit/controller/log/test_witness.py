from __future__ import annotations

from pathlib import Path

import pytest

from controller.log.errors import LogCorrupt
from controller.log.port import EMPTY_HASH, Head, hash_after
from controller.log.witness import Witness, WitnessFile

NONCE = bytes(range(16))


def test_no_file_means_no_witness(tmp_path: Path) -> None:
    assert WitnessFile(tmp_path / "witness").load() is None


def test_the_last_witness_stored_is_loaded(tmp_path: Path) -> None:
    file = WitnessFile(tmp_path / "state" / "witness")
    first = Witness("cluster", Head(1, hash_after(EMPTY_HASH, b"one"), NONCE))
    second = Witness("cluster", first.head.after(b"two"))
    file.store(first)
    file.store(second)
    assert file.load() == second
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["witness"]


def test_a_crash_before_the_replacement_leaves_the_old_witness(tmp_path: Path) -> None:
    path = tmp_path / "witness"
    old = Witness("cluster", Head(0, EMPTY_HASH, NONCE))
    WitnessFile(path).store(old)
    path.with_name("witness.new").write_text('{"identity": "clu')
    assert WitnessFile(path).load() == old


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"identity": "c", "next_offset": 1, "hash": "zz", "nonce": ""}',
        '{"identity": "c", "next_offset": 1, "hash": "00", "nonce": "00"}',
    ],
)
def test_an_unreadable_witness_is_refused_with_the_next_step(tmp_path: Path, text: str) -> None:
    path = tmp_path / "witness"
    path.write_text(text)
    with pytest.raises(LogCorrupt, match="remove this file to trust the log as it is"):
        WitnessFile(path).load()
