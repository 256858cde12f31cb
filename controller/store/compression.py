"""Makes rows small. Owns the choice between plain and compressed bytes, and the dictionary rows are compressed with.

Rows are alike: with a dictionary made of some hundreds of them a row takes a third of what it takes alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import zstandard

#: A good ratio at some 10 µs a row; the levels above cost more than they gain.
LEVEL = 3

#: Size of a dictionary: larger ones gain little, and each decompression reads from it.
DICTIONARY_BYTES = 32 * 1024

#: Rows a dictionary is made of: fewer do not show what is common.
MIN_SAMPLES = 500
MAX_SAMPLES = 2_000

#: Shorter rows gain nothing.
MIN_BYTES = 64

_PLAIN, _ALONE, _WITH_DICTIONARY = b"\0", b"\1", b"\2"


class Compression:
    """Compresses for one thread. The first byte of the result says how it was done."""

    def __init__(self, dictionary: bytes = b"") -> None:
        self.dictionary = dictionary
        trained = zstandard.ZstdCompressionDict(dictionary) if dictionary else None
        self._kind = _WITH_DICTIONARY if trained else _ALONE
        self._compress = zstandard.ZstdCompressor(
            level=LEVEL, dict_data=trained, write_checksum=False, write_dict_id=False
        ).compress
        self._with_dictionary = zstandard.ZstdDecompressor(dict_data=trained).decompress
        self._alone = zstandard.ZstdDecompressor().decompress

    def pack(self, data: bytes) -> bytes:
        """The shorter of the two forms."""
        if len(data) >= MIN_BYTES:
            packed = self._compress(data)
            if len(packed) < len(data):
                return self._kind + packed
        return _PLAIN + data

    def unpack(self, packed: bytes) -> bytes:
        """What was packed. Raises `ValueError` for what this compression did not make."""
        kind, data = packed[:1], packed[1:]
        if kind == _PLAIN:
            return data
        if kind == _ALONE:
            decompress = self._alone
        elif kind == _WITH_DICTIONARY and self.dictionary:
            decompress = self._with_dictionary
        else:
            raise ValueError(f"packed as {kind!r}")
        try:
            return decompress(data)
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from error


def dictionary_of(samples: Sequence[bytes]) -> bytes:
    """A dictionary for more rows like these; empty when they have nothing in common."""
    try:
        trained = zstandard.train_dictionary(DICTIONARY_BYTES, list(samples[:MAX_SAMPLES]))
    except zstandard.ZstdError:
        return b""
    return bytes(trained.as_bytes())
