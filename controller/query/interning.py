"""Values that many nodes share, each kept once and named by a number. Owns the numbers; code 0 is the empty value."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

V = TypeVar("V", bound=Hashable)


class Interner(Generic[V]):
    """Values by code. Codes are dense, and never change their value."""

    __slots__ = ("_codes", "values")

    def __init__(self, empty: V) -> None:
        self.values: list[V] = [empty]
        self._codes: dict[V, int] = {empty: 0}

    def __len__(self) -> int:
        return len(self.values)

    def code(self, value: V) -> int:
        """The code of a value, which gets one if it has none."""
        code = self._codes.get(value)
        if code is None:
            code = self._codes[value] = len(self.values)
            self.values.append(value)
        return code

    def known(self, value: V) -> int | None:
        """The code of a value; None when it has none."""
        return self._codes.get(value)

    def where(self, holds: Callable[[V], bool]) -> npt.NDArray[np.bool_]:
        """For each code whether its value fulfils a condition."""
        return np.fromiter(map(holds, self.values), np.bool_, len(self.values))
