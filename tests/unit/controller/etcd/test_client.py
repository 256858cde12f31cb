from __future__ import annotations

import pytest

from controller.etcd.client import prefix_end


@pytest.mark.parametrize(
    ("prefix", "end"),
    [(b"a", b"b"), (b"/log/", b"/log0"), (b"a\xff\xff", b"b"), (b"\xff", b"\0"), (b"", b"\0")],
)
def test_a_prefix_ends_before_the_next_key_without_it(prefix: bytes, end: bytes) -> None:
    assert prefix_end(prefix) == end
