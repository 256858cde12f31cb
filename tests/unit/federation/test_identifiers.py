from __future__ import annotations

import pytest

from federation.identifiers import is_valid_id


@pytest.mark.parametrize("text", ["a", "edge-zone-a1", "0", "a" * 63])
def test_dns_labels_are_ids(text: str) -> None:
    assert is_valid_id(text)


@pytest.mark.parametrize("text", ["", "-a", "a-", "A", "a.b", "a/b", "a" * 64, "a\n", "ä"])
def test_anything_else_is_no_id(text: str) -> None:
    assert not is_valid_id(text)
