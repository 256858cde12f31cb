"""The archive's directory holds whole segments only, and tells whose they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from controller.archive.directory import ArchiveDirectory
from controller.archive.segment import segment_of
from controller.log.errors import LogCorrupt
from controller.log.port import EMPTY_HASH

NONCE = bytes(range(16))
COMMITS = [(0, b"one"), (1, b"two")]
SEGMENT = segment_of(NONCE, EMPTY_HASH, COMMITS)


def test_a_directory_that_is_not_there_holds_nothing_and_is_made_on_demand(tmp_path: Path) -> None:
    directory = ArchiveDirectory(tmp_path / "a" / "b")
    assert directory.segments(NONCE) == []
    directory.write(SEGMENT, COMMITS)
    assert directory.segments(NONCE) == [SEGMENT]
    assert directory.read(SEGMENT).commits == [b"one", b"two"]
    assert directory.size_of([SEGMENT]) == directory.file_of(SEGMENT).stat().st_size
    assert [path.name for path in directory.path.iterdir()] == [directory.file_of(SEGMENT).name]


def test_segments_of_other_logs_and_other_files_are_left_out(tmp_path: Path) -> None:
    directory = ArchiveDirectory(tmp_path)
    directory.write(SEGMENT, COMMITS)
    directory.write(segment_of(bytes(16), EMPTY_HASH, COMMITS[:1]), COMMITS[:1])
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "half.segment").write_bytes(b"SVX")
    (tmp_path / "renamed.segment").write_bytes(directory.file_of(SEGMENT).read_bytes())
    assert directory.segments(NONCE) == [SEGMENT]


def test_writing_again_changes_nothing(tmp_path: Path) -> None:
    directory = ArchiveDirectory(tmp_path)
    directory.write(SEGMENT, COMMITS)
    directory.write(SEGMENT, COMMITS)
    assert directory.segments(NONCE) == [SEGMENT]


def test_a_full_disk_leaves_no_draft_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    directory = ArchiveDirectory(tmp_path)
    with pytest.raises(OSError, match="No space"):
        directory.write(SEGMENT, COMMITS)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_segment_is_named_with_the_next_step(tmp_path: Path) -> None:
    directory = ArchiveDirectory(tmp_path)
    directory.write(SEGMENT, COMMITS)
    path = directory.file_of(SEGMENT)
    data = bytearray(path.read_bytes())
    data[-6] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(LogCorrupt, match=r"\.segment: .*copy it from another replica"):
        directory.read(SEGMENT)
