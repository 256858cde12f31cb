"""Benchmark "sbom": which of 100,000 nodes run a component in a range of versions, by the index of SBOMs, beside
plain SQLite with one row for each node and component.

The fleet is made up as fleets are: 25 images in 12 states of patching, of 2,000 packages with 12 versions each; but
no two nodes have the same document, which is the hard case, for identical ones are kept once. What is measured is
what `FindAffectedNodes` does for a page of 100 nodes with its counts, within the process: judging versions, reading
the index, judging all nodes. The baseline answers the same questions with SQL, and must give the same numbers.
"""

from __future__ import annotations

import json
import random
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.report import percentile, report, rounded, say
from controller.query.columns import NodeColumns
from controller.query.summary import NodeSummary
from controller.sboms.exposure import NodeDocuments
from controller.sboms.store import SbomStore
from controller.supply.purls import InRange, Package, read_range
from controller.supply.sbom import Component, Sbom, read_sbom

NODES = 100_000
COMPONENTS = 300
PACKAGES = 2_000
VERSIONS = 12
IMAGES = 25
#: Components of a node that are not as its image has them.
OWN = 6

REGIONS = 10
ZONES = 100

LOT = 2_000
QUERIES = 300
BASELINE_QUERIES = 60
PAGE = 100
WARM_UP = 10
READS = 20
ROWS_AT_ONCE = 500_000

SEED = 20


class Question(NamedTuple):
    """What is asked: a package, a range and the domains."""

    package: Package
    text: str
    zones: tuple[int, ...]


def run() -> dict[str, Any]:
    """The report: milliseconds of the 99th of a hundred queries."""
    chance = random.Random(SEED)
    catalogue = [
        Component(_package(number), f"1.{version}.{number % 7}-1")
        for number in range(PACKAGES)
        for version in range(VERSIONS)
    ]
    fleet = _fleet()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "sboms.sqlite"
        columns, nodes, indexed_s = _index(path, catalogue, fleet)
        store = SbomStore(path)
        questions = [_question(chance) for _ in range(QUERIES)]
        say(f"sbom: {QUERIES} queries")
        for question in questions[:WARM_UP]:
            _ask(store, columns, nodes, question)
        taken, answers = [], []
        for question in questions:
            began_s = time.perf_counter()
            answers.append(_ask(store, columns, nodes, question))
            taken.append((time.perf_counter() - began_s) * 1000)
        store.close()
        index_bytes = path.stat().st_size
        asked = questions[:BASELINE_QUERIES]
        baseline, found, baseline_bytes = _baseline(Path(scratch), catalogue, fleet, asked)
    if found != answers[:BASELINE_QUERIES]:
        raise AssertionError("the index and plain SQLite do not agree")
    return report(
        "sbom",
        "ms p99",
        [percentile(taken, 99)],
        {"plain SQLite": [percentile(baseline, 99)]},
        p50_ms=rounded(percentile(taken, 50)),
        baseline_p50_ms=rounded(percentile(baseline, 50)),
        nodes=NODES,
        components_a_node=COMPONENTS,
        distinct_documents=NODES,
        index_mib=rounded(index_bytes / 2**20),
        baseline_mib=rounded(baseline_bytes / 2**20),
        columns_mib=rounded((columns.nbytes + nodes.nbytes) / 2**20),
        indexed_per_s=rounded(NODES / indexed_s),
        read_ms=rounded(_read_ms(catalogue, fleet)),
    )


def _package(number: int) -> Package:
    if number % 5 == 0:
        return Package("pypi", "", f"package-{number}")
    return Package("deb", "debian", f"package-{number}")


def _fleet() -> npt.NDArray[np.int32]:
    """The components of each node, as places in the catalogue."""
    chance = np.random.default_rng(SEED)
    images = np.stack([chance.choice(PACKAGES, COMPONENTS, replace=False) for _ in range(IMAGES)])
    image = chance.integers(0, IMAGES, NODES)
    patched = chance.integers(0, VERSIONS, NODES)
    packages = images[image]
    version = (patched[:, None] + packages) % VERSIONS
    for _ in range(OWN):
        place = chance.integers(0, COMPONENTS, NODES)
        version[np.arange(NODES), place] = chance.integers(0, VERSIONS, NODES)
    return (packages * VERSIONS + version).astype(np.int32)


def _index(
    path: Path, catalogue: list[Component], fleet: npt.NDArray[np.int32]
) -> tuple[NodeColumns, NodeDocuments, float]:
    say(f"sbom: indexing {NODES} documents of {COMPONENTS} components")
    columns = NodeColumns()
    columns.reserve(NODES)
    for node in range(NODES):
        columns.put(_node_id(node), NodeSummary(domain=f"zone-{node % ZONES}"))
    nodes = NodeDocuments(columns)
    store = SbomStore(path)
    began_s = time.perf_counter()
    for first in range(0, NODES, LOT):
        lot: list[tuple[str, Sbom | str]] = [
            (f"{node:064x}", Sbom("1.6", tuple(catalogue[c] for c in row), COMPONENTS, 0))
            for node, row in enumerate(fleet[first : first + LOT].tolist(), first)
        ]
        for number, document in enumerate(store.add(lot).values(), first):
            nodes.put(number, document.number, 1)
    indexed_s = time.perf_counter() - began_s
    store.close()
    return columns, nodes, indexed_s


def _node_id(node: int) -> str:
    return f"n{node:06d}"


def _question(chance: random.Random) -> Question:
    number = chance.randrange(PACKAGES)
    text = f"<1.{chance.randrange(1, VERSIONS)}.0"
    # The whole fleet, a region, a zone.
    first = chance.randrange(ZONES)
    width = chance.choice((ZONES, ZONES // REGIONS, 1))
    zones = tuple(sorted((first + n) % ZONES for n in range(width)))
    return Question(_package(number), text, zones)


def _ask(
    store: SbomStore, columns: NodeColumns, nodes: NodeDocuments, question: Question
) -> tuple[int, int, list[str]]:
    """Nodes asked about, nodes affected, and the first page."""
    found = store.find(question.package, read_range(question.text, question.package))
    judged = nodes.judge(found, {f"zone-{zone}" for zone in question.zones})
    rows = nodes.next_rows(judged.affected, "", PAGE)
    return (
        int(np.count_nonzero(judged.asked)),
        int(np.count_nonzero(judged.affected)),
        [columns.ids.id_of(int(row)) for row in rows],
    )


def _baseline(
    scratch: Path,
    catalogue: list[Component],
    fleet: npt.NDArray[np.int32],
    questions: list[Question],
) -> tuple[list[float], list[tuple[int, int, list[str]]], int]:
    """The same questions to a table with a row for each node and component, clustered by component."""
    say(f"sbom: a table of {NODES * COMPONENTS} rows, for comparison")
    path = scratch / "plain.sqlite"
    db = sqlite3.connect(path)
    db.executescript(
        "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -262144;"
        "CREATE TABLE node (id INTEGER PRIMARY KEY, name TEXT, zone INTEGER);"
        "CREATE INDEX node_zone ON node (zone);"
        "CREATE TABLE component (id INTEGER PRIMARY KEY, purl TEXT, version TEXT);"
        "CREATE TABLE holding (component INTEGER, node INTEGER, PRIMARY KEY (component, node)) WITHOUT ROWID;"
    )
    db.executemany(
        "INSERT INTO node VALUES (?, ?, ?)", ((n, _node_id(n), n % ZONES) for n in range(NODES))
    )
    db.executemany(
        "INSERT INTO component VALUES (?, ?, ?)",
        ((n, c.package.purl(), c.version) for n, c in enumerate(catalogue)),
    )
    db.execute("CREATE INDEX component_purl ON component (purl)")
    for rows in _holdings(fleet):
        db.executemany("INSERT INTO holding VALUES (?, ?)", rows)
    db.commit()
    taken, answers = [], []
    for number, question in enumerate([*questions[:WARM_UP], *questions]):
        began_s = time.perf_counter()
        answer = _ask_plain(db, question)
        if number >= WARM_UP:
            taken.append((time.perf_counter() - began_s) * 1000)
            answers.append(answer)
    db.close()
    return taken, answers, path.stat().st_size


def _holdings(fleet: npt.NDArray[np.int32]) -> Iterator[list[tuple[int, int]]]:
    """Pairs of component and node, in order."""
    pairs = fleet.astype(np.int64) * NODES + np.arange(NODES)[:, None]
    keys = np.sort(pairs.reshape(-1))
    for at in range(0, len(keys), ROWS_AT_ONCE):
        some = keys[at : at + ROWS_AT_ONCE]
        yield list(zip((some // NODES).tolist(), (some % NODES).tolist(), strict=True))


def _ask_plain(db: sqlite3.Connection, question: Question) -> tuple[int, int, list[str]]:
    range_ = read_range(question.text, question.package)
    versions = db.execute(
        "SELECT id, version FROM component WHERE purl = ?", (question.package.purl(),)
    ).fetchall()
    wanted = [id_ for id_, version in versions if range_.judge(version) is InRange.YES]
    marks, zones = ",".join("?" * len(wanted)), ",".join("?" * len(question.zones))
    query = f"FROM holding JOIN node ON node.id = node WHERE component IN ({marks}) AND zone IN ({zones})"
    values = (*wanted, *question.zones)
    asked = db.execute(
        f"SELECT count(*) FROM node WHERE zone IN ({zones})",  # noqa: S608
        question.zones,
    ).fetchone()[0]
    affected = db.execute(f"SELECT count(DISTINCT node) {query}", values).fetchone()[0]
    page = db.execute(f"SELECT DISTINCT name {query} ORDER BY name LIMIT {PAGE}", values)
    return asked, affected, [row[0] for row in page]


def _read_ms(catalogue: list[Component], fleet: npt.NDArray[np.int32]) -> float:
    """Milliseconds to validate and read one document, before it is indexed."""
    taken = []
    for row in fleet[:READS].tolist():
        components = [
            {
                "type": "library",
                "bom-ref": catalogue[c].package.purl(catalogue[c].version),
                "name": catalogue[c].package.name,
                "version": catalogue[c].version,
                "purl": catalogue[c].package.purl(catalogue[c].version),
            }
            for c in row
        ]
        document = {"bomFormat": "CycloneDX", "specVersion": "1.6", "components": components}
        data = json.dumps(document).encode()
        began_s = time.perf_counter()
        read_sbom(data)
        taken.append((time.perf_counter() - began_s) * 1000)
    return percentile(taken, 50)
