from __future__ import annotations

import pytest

from controller.services.paging import MAX_PAGE_SIZE, MAX_TOKEN_BYTES, cut, page_of
from federation.errors import InvalidWrite
from souverix.fleet.v1 import fleet_service_pb2 as fleet


def test_size_defaults_and_is_cut_to_the_largest() -> None:
    assert page_of(fleet.ListNodesRequest()).size == 100
    assert page_of(fleet.ListNodesRequest(page_size=5000)).size == MAX_PAGE_SIZE


def test_pages_cover_all_items_once_though_new_ones_come_between() -> None:
    request = fleet.ListNodesRequest(page_size=2)
    first, token = cut(["d", "a", "c", "b"], page_of(request), str)
    request.page_token = token
    second, end = cut(["d", "a", "c", "b", "aa"], page_of(request), str)

    assert (first, second, end) == (["a", "b"], ["c", "d"], "")


def test_token_outlives_a_change_of_page_size_but_not_of_the_query() -> None:
    request = fleet.ListNodesRequest(page_size=1)
    _, request.page_token = cut(["a", "b"], page_of(request), str)
    request.page_size = 50
    assert page_of(request).after == "a"

    request.domain = "other"
    with pytest.raises(InvalidWrite, match="other fields"):
        page_of(request)


@pytest.mark.parametrize("token", ["!", "bm9uc2Vuc2U", "W10", "x" * (MAX_TOKEN_BYTES + 1), "ü"])
def test_token_that_was_not_made_here_is_refused(token: str) -> None:
    with pytest.raises(InvalidWrite) as caught:
        page_of(fleet.ListNodesRequest(page_token=token))

    assert caught.value.metadata["field"] == "page_token"
