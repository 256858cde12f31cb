from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.etcd.errors import AccessRefused, EtcdUnavailable
from controller.log.errors import LogCorrupt, LogRefused, LogUnavailable
from controller.log.etcd_layout import Layout, as_log_errors

LAYOUT = Layout("/souverix/global")


@given(st.integers(0, 2**62), st.integers(0, 2**62))
def test_keys_sort_as_offsets_do(one: int, other: int) -> None:
    assert (one < other) == (LAYOUT.commit(one) < LAYOUT.commit(other))
    assert LAYOUT.offset_of(LAYOUT.commit(one)) == one


def test_an_offset_has_16_hex_digits() -> None:
    assert LAYOUT.commit(255) == b"/souverix/global/log/00000000000000ff"


@pytest.mark.parametrize("name", [b"", b"1", b"00000000000000FF", b"-000000000000001", b"notes"])
def test_a_foreign_key_among_the_commits_is_named(name: bytes) -> None:
    with pytest.raises(LogCorrupt, match="does not belong among the commits"):
        LAYOUT.offset_of(LAYOUT.commits + name)


def test_refusals_and_outages_are_told_apart() -> None:
    with pytest.raises(LogRefused), as_log_errors():
        raise AccessRefused("no")
    with pytest.raises(LogUnavailable), as_log_errors():
        raise EtcdUnavailable("nobody there")
