"""Which nodes run a component, from the documents they have. Owns the columns of nodes and documents, and the
judgement of each node; knows no event and no disk.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from controller.query.columns import NodeColumns
from controller.query.ids import FIRST_ROWS, GROWTH
from controller.sboms.store import Found

Rows = npt.NDArray[np.int64]

#: What stands for a node's document where there is none: it has none, it is not read, or it was refused.
NO_SBOM: Final = -1
NOT_READ: Final = -2
INVALID: Final = -3

#: As `observed_ms` where a node did not say when it looked.
NEVER: Final = 0


class Judged(NamedTuple):
    """The rows asked about, by what is known of them."""

    asked: npt.NDArray[np.bool_]
    affected: npt.NDArray[np.bool_]
    no_sbom: npt.NDArray[np.bool_]
    not_read: npt.NDArray[np.bool_]
    invalid: npt.NDArray[np.bool_]
    unknown_version: npt.NDArray[np.bool_]

    @property
    def unknown(self) -> npt.NDArray[np.bool_]:
        """Rows of which it cannot be told."""
        found: npt.NDArray[np.bool_] = (
            self.no_sbom | self.not_read | self.invalid | self.unknown_version
        )
        return found


class NodeDocuments:
    """The document of each node, by its row in the columns of all nodes."""

    def __init__(self, columns: NodeColumns) -> None:
        self._columns = columns
        self._document = np.full(FIRST_ROWS, NOT_READ, np.int32)
        self._observed_ms = np.zeros(FIRST_ROWS, np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes held in arrays."""
        return self._document.nbytes + self._observed_ms.nbytes

    def put(self, row: int, document: int, observed_ms: int) -> None:
        """Notes the document of a row, and when its node looked."""
        self._reserve(row + 1)
        self._document[row] = document
        self._observed_ms[row] = observed_ms

    def document_of(self, row: int) -> int:
        """The document of a row, or what stands for none."""
        return int(self._document[row]) if row < len(self._document) else NOT_READ

    def observed_ms_of(self, row: int) -> int:
        """When the node of a row looked."""
        return int(self._observed_ms[row]) if row < len(self._observed_ms) else NEVER

    def judge(self, found: Found, domains: set[str]) -> Judged:
        """Judges the nodes of some domains."""
        rows = len(self._columns)
        self._reserve(rows)
        asked = self._columns.in_domains(domains)
        document = self._document[:rows]
        read = document >= 0
        # A document that came after the query's look at the index is not read for it.
        late = document >= found.documents
        at = np.where(read & ~late, document, 0)
        held = asked & read & ~late
        some = found.documents > 0
        affected = held & found.affected[at] if some else np.zeros(rows, np.bool_)
        unknown = held & found.unknown[at] if some else np.zeros(rows, np.bool_)
        return Judged(
            asked,
            affected,
            asked & (document == NO_SBOM),
            asked & ((document == NOT_READ) | late),
            asked & (document == INVALID),
            unknown,
        )

    def oldest_ms(self, judged: Judged) -> int | None:
        """When the node with the oldest SBOM among those asked about looked; None: none said."""
        rows = len(judged.asked)
        told = self._observed_ms[:rows][judged.asked & (self._observed_ms[:rows] > NEVER)]
        return int(told.min()) if len(told) else None

    def next_rows(self, fitting: npt.NDArray[np.bool_], after: str, most: int) -> Rows:
        """Of the rows that fit, the next ones by id."""
        ids = self._columns.ids
        order = ids.order()
        start = ids.position_after(after) if after else 0
        rest = order[start:]
        rest = rest[rest < len(fitting)]
        found: Rows = rest[fitting[rest]][:most].astype(np.int64)
        return found

    def _reserve(self, rows: int) -> None:
        more = rows - len(self._document)
        if more > 0:
            more = max(more, int(len(self._document) * GROWTH))
            self._document = np.concatenate([self._document, np.full(more, NOT_READ, np.int32)])
            self._observed_ms = np.concatenate([self._observed_ms, np.zeros(more, np.int64)])
