from __future__ import annotations

import random

import pytest

from controller.store.compression import Compression, dictionary_of

ROWS = [
    f"node {number} of the zone reports version 2.{number % 7} and is healthy, as it was before".encode()
    * 3
    for number in range(600)
]


def test_what_was_packed_comes_back_in_every_form() -> None:
    noise = random.Random(1).randbytes(500)
    trained = Compression(dictionary_of(ROWS))
    for compression in (Compression(), trained):
        for data in (b"", b"short", noise, ROWS[0]):
            assert compression.unpack(compression.pack(data)) == data
    assert len(trained.pack(ROWS[3])) < len(Compression().pack(ROWS[3])) < len(ROWS[3])


def test_rows_from_before_the_dictionary_can_still_be_read() -> None:
    old = Compression().pack(ROWS[0])
    assert Compression(dictionary_of(ROWS)).unpack(old) == ROWS[0]


@pytest.mark.parametrize("packed", [b"", b"\7abc", b"\1abc", b"\2abc"])
def test_what_was_not_packed_here_is_refused(packed: bytes) -> None:
    with pytest.raises(ValueError, match=r"packed as|decompress|frame"):
        Compression().unpack(packed)


def test_rows_with_nothing_in_common_make_no_dictionary() -> None:
    assert dictionary_of([b"a"]) == b""
