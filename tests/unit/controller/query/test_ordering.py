from __future__ import annotations

import json
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.query.columns import NodeColumns
from controller.query.moment import Moment
from controller.query.ordering import next_rows, parse_order, place_of, read_place
from controller.query.summary import NodeSummary
from federation.errors import InvalidWrite

VERSIONS = ("", "1.4.10", "1.4.9", "1.4.9-rc.1", "2.0", "odd")
BY_PRECEDENCE = ("", "odd", "1.4.9-rc.1", "1.4.9", "1.4.10", "2.0")


def columns(seed: int, nodes: int) -> tuple[NodeColumns, dict[str, NodeSummary]]:
    chance = Random(seed)
    held = {}
    made = NodeColumns()
    for number in chance.sample(range(1000), nodes):
        summary = NodeSummary(
            domain="d",
            drift_score=float(chance.randrange(3)),
            release=(chance.choice(VERSIONS), "", ""),
            region=chance.choice(["", "a", "b"]),
            report_ms=chance.randrange(4) * 1000,
        )
        held[f"n{number}"] = summary
        made.put(f"n{number}", summary)
    return made, held


KEYS = {
    "score": lambda s: s.drift_score,
    "version": lambda s: BY_PRECEDENCE.index(s.release[0]),
    "region": lambda s: s.region,
    "report_time": lambda s: s.report_ms,
    "stale_by": lambda s: -s.report_ms,
}


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 30),
    order=st.lists(
        st.tuples(st.sampled_from(sorted(KEYS)), st.booleans()),
        max_size=3,
        unique_by=lambda key: key[0],
    ),
    by_id=st.sampled_from(["", "id", "id desc"]),
    size=st.integers(1, 12),
)
def test_pages_joined_are_all_nodes_in_order(
    seed: int, order: list[tuple[str, bool]], by_id: str, size: int
) -> None:
    made, held = columns(seed, 40)
    fitting = {node_id for node_id, summary in held.items() if summary.region != "b"}
    text = ", ".join(
        [name + (" desc" if down else "") for name, down in order] + [by_id] * bool(by_id)
    )
    fields = parse_order(text)

    wanted = sorted(fitting, reverse=by_id == "id desc")
    for name, down in reversed(order):
        wanted.sort(key=lambda node_id, key=KEYS[name]: key(held[node_id]), reverse=down)  # type: ignore[misc]

    found: list[str] = []
    place = None
    now_ms = 10_000
    while True:
        at = Moment(made, now_ms, {})
        mask = np.array([made.ids.id_of(row) in fitting for row in range(len(made))])
        rows = next_rows(at, mask, fields, place, size)
        found += [made.ids.id_of(int(row)) for row in rows]
        if len(rows) < size:
            break
        place = read_place(json.dumps(place_of(at, int(rows[-1]), fields)), fields)
        now_ms += 500  # ages grow between pages
    if any(down for _, down in order):
        # sorted() keeps the order of equal ones when it is reversed; so do pages.
        assert len(found) == len(wanted)
    assert found == wanted


def test_place_holds_when_its_row_is_gone_and_others_come() -> None:
    made, _ = columns(1, 0)
    for node_id, score in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
        made.put(node_id, NodeSummary("d", drift_score=score))
    order = parse_order("score desc")
    at = Moment(made, 0, {})
    rows = next_rows(at, made.column("present"), order, None, 2)
    place = place_of(at, int(rows[-1]), order)

    made.put("b", None)
    made.put("aa", NodeSummary("d", drift_score=1.5))
    rows = next_rows(at, made.column("present"), order, place, 10)

    assert [made.ids.id_of(int(row)) for row in rows] == ["aa", "a"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("colour", "'colour' is no field with an order"),
        ("tags", "'tags' is no field with an order"),
        ("score down", 'expected a field, or a field and "desc"'),
        ("score,", 'expected a field, or a field and "desc"'),
        ("score,version,region,phase,mode", "more than 4 fields"),
        ("x" * 600, "longer than 512 bytes"),
    ],
)
def test_orders_refused(text: str, told: str) -> None:
    with pytest.raises(InvalidWrite, match=told):
        parse_order(text)


@pytest.mark.parametrize(
    "told",
    ["", "{}", "[]", '["a"]', "[1]", '["x", "a"]', '[1e999, "a"]', '[1, "\\ud800"]', "[1, 2]"],
)
def test_places_of_other_orders_are_refused(told: str) -> None:
    with pytest.raises(InvalidWrite, match="page_token"):
        read_place(told, parse_order("score"))
