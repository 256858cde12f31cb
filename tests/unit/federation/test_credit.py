from __future__ import annotations

import pytest

from federation.credit import MAX_CREDIT_BYTES, Credit
from federation.errors import PeerError
from federation.greeting import CREDIT_BYTES


def test_nothing_may_be_sent_before_the_peer_granted_anything() -> None:
    assert not Credit().may_send


def test_last_frame_may_overdraw_and_the_next_waits_for_what_comes_back() -> None:
    credit = Credit()
    credit.opened(100)
    credit.sent(150)
    assert (credit.may_send, credit.under_way_bytes) == (False, 150)
    credit.came_back(150)
    assert (credit.may_send, credit.under_way_bytes) == (True, 0)


def test_credit_without_measure_counts_up_to_the_bound() -> None:
    credit = Credit()
    credit.opened(1 << 62)
    credit.came_back(1 << 62)
    credit.sent(MAX_CREDIT_BYTES)
    assert not credit.may_send


def test_credit_for_what_was_never_sent_leaves_nothing_under_way() -> None:
    credit = Credit()
    credit.opened(10)
    credit.came_back(50)
    assert credit.under_way_bytes == 0


def test_peer_beyond_its_grant_is_told_so_until_credit_is_given_back() -> None:
    credit = Credit()
    credit.check_granted()
    credit.received(CREDIT_BYTES + 1)
    with pytest.raises(PeerError, match="credit"):
        credit.check_granted()
    credit.gave_back(CREDIT_BYTES + 1)
    credit.check_granted()
