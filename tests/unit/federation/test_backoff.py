from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from federation.backoff import Backoff


def test_steps_double_up_to_the_longest() -> None:
    backoff = Backoff(initial_ms=100, maximum_ms=1000)
    assert [backoff.delay_ms(n, 0.999999) for n in range(5)] == [99, 199, 399, 799, 999]


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_delay_stays_between_half_and_the_whole_of_its_step(attempt: int, chance: float) -> None:
    backoff = Backoff()
    step = min(30_000, 200 * 2 ** min(attempt, 20))
    assert step // 2 <= backoff.delay_ms(attempt, chance) <= step
