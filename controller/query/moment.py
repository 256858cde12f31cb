"""The columns as they read at one time: what depends on the clock, and on which controllers can be reached, is computed
here from what is kept. Owns these computations; changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from controller.attestation.states import Integrity
from controller.query.columns import Column, NodeColumns, Rows
from controller.query.summary import NEVER

ALL_ROWS = slice(None)


class Moment:
    """The columns at `now_ms`. `unknown_since_ms` names the domains whose controllers cannot be reached, with since
    when; times are milliseconds since the epoch.
    """

    def __init__(
        self, columns: NodeColumns, now_ms: int, unknown_since_ms: Mapping[str, int]
    ) -> None:
        self.columns = columns
        self.now_ms = now_ms
        self._unknown = {d: since for d, since in unknown_since_ms.items() if since is not None}

    def column(self, name: str, rows: Rows = ALL_ROWS) -> Column:
        """A column of `NodeColumns`, or one that is computed: "mode", "mode_since_ms" and "last_known_mode", "unknown"
        and "unknown_since_ms", "stale_ms", "integrity".
        """
        if name == "integrity":
            return self._integrity(rows)
        if name == "stale_ms":
            return self._stale_ms(rows)
        if name == "unknown":
            unknown: Column = self._unknown_since_ms(rows) != NEVER
            return unknown
        if name == "unknown_since_ms":
            return self._unknown_since_ms(rows)
        if name in ("mode", "last_known_mode"):
            return self._mode(rows, last_known=name == "last_known_mode")
        if name == "mode_since_ms" and self._unknown:
            since = self.columns.column(name, rows)
            known: Column = np.where(self._unknown_since_ms(rows) == NEVER, since, NEVER)
            return known
        return self.columns.column(name, rows)

    @cached_property
    def _since_by_code(self) -> npt.NDArray[np.int64]:
        domains = self.columns.values["domain"]
        since = np.full(len(domains), NEVER, np.int64)
        for domain, at_ms in self._unknown.items():
            code = domains.known(domain)
            if code:
                since[code] = at_ms
        return since

    def _unknown_since_ms(self, rows: Rows) -> Column:
        """Of nodes that were ever heard, since when it is not known how they are connected."""
        heard = self.columns.column("mode_since_ms", rows)
        if not self._unknown:
            return np.full(len(heard), NEVER, np.int64)
        since = self._since_by_code[self.columns.column("domain", rows)]
        return np.where(heard == NEVER, NEVER, since)

    def _mode(self, rows: Rows, *, last_known: bool) -> Column:
        mode = self.columns.column("mode", rows)
        if not self._unknown:
            return np.zeros_like(mode) if last_known else mode
        unknown = self._unknown_since_ms(rows) != NEVER
        shown: npt.NDArray[Any] = np.where(unknown == last_known, mode, 0)
        return shown

    def _integrity(self, rows: Rows) -> Column:
        """As it was recorded, unless a verification has run out since."""
        recorded = self.columns.column("integrity", rows)
        until = self.columns.column("attested_until_ms", rows)
        has_run_out = (recorded == Integrity.VERIFIED) & (until <= self.now_ms)
        shown: npt.NDArray[Any] = np.where(
            has_run_out, recorded.dtype.type(Integrity.EXPIRED), recorded
        )
        return shown

    def _stale_ms(self, rows: Rows) -> Column:
        report = self.columns.column("report_ms", rows)
        stale: npt.NDArray[Any] = np.where(
            report == NEVER, NEVER, np.maximum(0, self.now_ms - np.maximum(report, 0))
        )
        return stale
