from __future__ import annotations

import pytest

from controller.twin.drift_waivers import (
    MAX_WAIVER_DAYS,
    MAX_WAIVERS,
    Waivers,
    check_waiver,
    with_waiver,
    without_waiver,
)
from federation.errors import InvalidWrite, NotFound, WrongState
from souverix.fleet.v1 import drift_pb2

NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000


def waiver(
    field: str, expire_ms: int = NOW_MS + DAY_MS, any_value: bool = True
) -> drift_pb2.DriftWaiver:
    made = drift_pb2.DriftWaiver(field=field, reason="r", any_value=any_value)
    made.expire_time.FromMilliseconds(expire_ms)
    return made


def holding(*waivers: drift_pb2.DriftWaiver) -> drift_pb2.DriftWaivers:
    return drift_pb2.DriftWaivers(waivers=waivers)


@pytest.mark.parametrize(
    "field", ["target_version", "policy_version", "configuration", "configuration.stir.mode"]
)
def test_what_drifts_may_be_waived(field: str) -> None:
    check_waiver(field, "r", NOW_MS + 1, NOW_MS)
    check_waiver(field, "r", NOW_MS + MAX_WAIVER_DAYS * DAY_MS, NOW_MS)


@pytest.mark.parametrize(
    ("field", "reason", "expire_ms", "named"),
    [
        ("", "r", NOW_MS + 1, "field"),
        ("configurations.a", "r", NOW_MS + 1, "field"),
        ("stir.mode", "r", NOW_MS + 1, "field"),
        ("target_version", "", NOW_MS + 1, "reason"),
        ("target_version", "r", None, "expire_time"),
        ("target_version", "r", NOW_MS, "expire_time"),
        ("target_version", "r", NOW_MS + MAX_WAIVER_DAYS * DAY_MS + 1, "expire_time"),
    ],
)
def test_a_waiver_nobody_may_ask_for_is_refused(
    field: str, reason: str, expire_ms: int | None, named: str
) -> None:
    with pytest.raises(InvalidWrite) as refused:
        check_waiver(field, reason, expire_ms, NOW_MS)
    assert refused.value.metadata["field"] == named


def test_a_waiver_of_an_object_covers_what_is_below_it_and_nothing_beside() -> None:
    waivers = Waivers(holding(waiver("configuration.a")), NOW_MS)
    assert waivers.accepting("configuration.a", 1.0) is not None
    assert waivers.accepting("configuration.a.b", 1.0) is not None
    assert waivers.accepting("configuration.ab", 1.0) is None
    assert waivers.accepting("target_version", "1") is None


def test_a_waiver_ends_when_it_says() -> None:
    held = holding(waiver("target_version", NOW_MS + 5))
    assert Waivers(held, NOW_MS + 4).accepting("target_version", "1") is not None
    assert Waivers(held, NOW_MS + 5).accepting("target_version", "1") is None
    assert Waivers(None, NOW_MS).active() == []


def test_what_stands_is_what_is_accepted() -> None:
    standing = {"configuration.a": 2.0, "configuration.gone": None}
    held = with_waiver(None, waiver("configuration.a", any_value=False), standing, NOW_MS)
    assert held.waivers[0].accepted_value.number_value == 2
    assert held.waivers[0].time.ToMilliseconds() == NOW_MS
    held = with_waiver(held, waiver("configuration.gone", any_value=False), standing, NOW_MS)
    accepted = Waivers(held, NOW_MS)
    assert accepted.accepting("configuration.gone", None) is not None
    assert accepted.accepting("configuration.gone", 1.0) is None
    assert accepted.accepting("configuration.a", "2") is not None


def test_what_does_not_drift_cannot_be_accepted_but_for_any_value() -> None:
    with pytest.raises(WrongState, match=r"configuration\.a"):
        with_waiver(
            None, waiver("target_version", any_value=False), {"configuration.a": 1.0}, NOW_MS
        )
    assert with_waiver(None, waiver("target_version"), {}, NOW_MS).waivers[0].any_value


def test_a_waiver_replaces_the_one_of_its_field_and_expired_ones_go() -> None:
    held = holding(waiver("target_version"), waiver("configuration.old", NOW_MS))
    again = waiver("target_version", NOW_MS + 2 * DAY_MS)
    (only,) = with_waiver(held, again, {}, NOW_MS).waivers
    assert only.expire_time == again.expire_time


def test_waivers_of_a_node_are_bounded() -> None:
    held = holding(*(waiver(f"configuration.f{n}") for n in range(MAX_WAIVERS)))
    with pytest.raises(WrongState, match="revoke one"):
        with_waiver(held, waiver("target_version"), {}, NOW_MS)
    assert len(with_waiver(held, waiver("configuration.f1"), {}, NOW_MS).waivers) == MAX_WAIVERS


def test_a_waiver_is_taken_back_by_its_field() -> None:
    held = holding(waiver("target_version"), waiver("configuration.a"))
    assert [w.field for w in without_waiver(held, "target_version", NOW_MS).waivers] == [
        "configuration.a"
    ]
    with pytest.raises(NotFound, match=r"target_version, configuration\.a"):
        without_waiver(held, "configuration.b", NOW_MS)
