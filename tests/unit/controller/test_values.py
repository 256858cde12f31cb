"""The store of large values, on a real directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.values import (
    MAX_CHUNK_BYTES,
    ChunkMissing,
    InvalidChunk,
    StoreFull,
    ValueStore,
    digest_of,
)

CHUNK = b"packages" * 100


def files_in(directory: Path) -> list[Path]:
    return list(directory.glob("??/*"))


async def test_what_was_put_is_got_also_by_the_next_process(tmp_path: Path) -> None:
    await ValueStore(tmp_path).put(digest_of(CHUNK), CHUNK)
    assert await ValueStore(tmp_path).get(digest_of(CHUNK)) == CHUNK


async def test_missing_names_each_absent_chunk_once_in_order(tmp_path: Path) -> None:
    store = ValueStore(tmp_path)
    await store.put(digest_of(CHUNK), CHUNK)
    first, second = digest_of(b"1"), digest_of(b"2")
    asked = [second, digest_of(CHUNK), first, second]
    assert await store.missing(asked) == [second, first]


async def test_a_chunk_that_is_not_here_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ChunkMissing, match="is not here"):
        await ValueStore(tmp_path).get(digest_of(b"nobody sent this"))


async def test_a_text_that_is_no_digest_is_no_missing_chunk(tmp_path: Path) -> None:
    assert await ValueStore(tmp_path).missing(["../secret", digest_of(b"1")]) == [digest_of(b"1")]


async def test_a_damaged_chunk_is_not_passed_on_and_can_be_put_anew(tmp_path: Path) -> None:
    store = ValueStore(tmp_path)
    await store.put(digest_of(CHUNK), CHUNK)
    (file,) = files_in(tmp_path)
    file.write_bytes(CHUNK[:-1] + b"?")
    with pytest.raises(ChunkMissing, match="damaged"):
        await store.get(digest_of(CHUNK))
    assert await store.missing([digest_of(CHUNK)]) == [digest_of(CHUNK)]
    await store.put(digest_of(CHUNK), CHUNK)
    assert await store.get(digest_of(CHUNK)) == CHUNK


@pytest.mark.parametrize("digest", ["", "sha256:abc", "md5:" + "0" * 64, "sha256:../../etc/passwd"])
async def test_what_is_no_digest_is_refused(tmp_path: Path, digest: str) -> None:
    store = ValueStore(tmp_path)
    with pytest.raises(InvalidChunk, match="is no digest"):
        await store.get(digest)
    with pytest.raises(InvalidChunk, match="is no digest"):
        await store.put(digest, CHUNK)


async def test_bytes_under_a_wrong_name_are_refused_and_not_kept(tmp_path: Path) -> None:
    store = ValueStore(tmp_path)
    with pytest.raises(InvalidChunk, match="another digest"):
        await store.put(digest_of(b"other"), CHUNK)
    assert files_in(tmp_path) == []


async def test_a_chunk_over_the_limit_is_refused(tmp_path: Path) -> None:
    data = bytes(MAX_CHUNK_BYTES + 1)
    with pytest.raises(InvalidChunk, match="at most"):
        await ValueStore(tmp_path).put(digest_of(data), data)


async def test_a_full_store_refuses_new_chunks_and_keeps_the_old(tmp_path: Path) -> None:
    store = ValueStore(tmp_path, max_bytes=len(CHUNK) + 1)
    await store.put(digest_of(CHUNK), CHUNK)
    with pytest.raises(StoreFull):
        await store.put(digest_of(b"ab"), b"ab")
    await store.put(digest_of(CHUNK), CHUNK)
    assert await store.get(digest_of(CHUNK)) == CHUNK


async def test_the_bound_counts_what_an_earlier_process_left(tmp_path: Path) -> None:
    await ValueStore(tmp_path).put(digest_of(CHUNK), CHUNK)
    with pytest.raises(StoreFull):
        await ValueStore(tmp_path, max_bytes=len(CHUNK)).put(digest_of(b"ab"), b"ab")


async def test_no_partial_file_is_left(tmp_path: Path) -> None:
    store = ValueStore(tmp_path)
    await store.put(digest_of(CHUNK), CHUNK)
    assert [path.suffix for path in files_in(tmp_path)] == [""]
