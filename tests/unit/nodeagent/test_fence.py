from __future__ import annotations

import pytest

from nodeagent.fence import Fence, Standing, standing

MET = Fence(placement_epoch=2, controller="zone-a1", incarnation=3, fencing_token=50)


def test_any_fence_is_higher_than_none() -> None:
    assert standing(Fence(0, "", 0, 0), None) is Standing.HIGHER


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        (MET, Standing.EQUAL),
        (Fence(2, "zone-a1", 3, 51), Standing.HIGHER),
        (Fence(2, "zone-a1", 3, 49), Standing.LOWER),
        (Fence(2, "zone-a1", 4, 1), Standing.HIGHER),
        (Fence(2, "zone-a1", 2, 99), Standing.LOWER),
        (Fence(2, "zone-b1", 9, 99), Standing.LOWER),
        (Fence(3, "zone-b1", 1, 1), Standing.HIGHER),
        (Fence(1, "zone-b1", 9, 99), Standing.LOWER),
        (Fence(1, "zone-a1", 9, 99), Standing.LOWER),
    ],
    ids=str,
)
def test_placement_decides_first_and_then_only_its_own_controller(
    offered: Fence, expected: Standing
) -> None:
    assert standing(offered, MET) is expected


def test_survives_the_wire() -> None:
    assert Fence.from_message(MET.to_message()) == MET
