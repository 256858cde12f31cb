"""Filters over columns mean what the same filters mean on composed twins, read by a plain interpreter."""

from __future__ import annotations

import functools
import re
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.changes import Changes
from controller.query.fields import BY_NAME, FIELDS, Kind
from controller.query.filter import compile_filter
from controller.query.filter_syntax import (
    Comparison,
    Conjunction,
    Disjunction,
    Expression,
    Negation,
    parse_filter,
)
from controller.query.live import LiveColumns
from controller.query.moment import ALL_ROWS, Moment
from controller.twin.versions import prerelease_key, read_version
from federation.errors import InvalidWrite
from souverix.fleet.v1 import node_pb2
from tests.unit.controller.query.fleets import RandomFleet, twins

CUT_OFF = "edge-a2"


@functools.cache
def fleet() -> tuple[Moment, dict[str, node_pb2.Node]]:
    """A fleet in columns and as twins, one domain of it out of reach."""
    made = RandomFleet(seed=7, nodes=40)
    for _ in range(500):
        made.step()
    now_ms = made.controller.now_ms + 1000
    live = LiveColumns(made.state, Changes(), lambda: now_ms)
    live.begin()
    while live.work(1000):
        pass
    unknown = {CUT_OFF: now_ms - 5000}
    return Moment(live.columns, now_ms, unknown), twins(made.state, now_ms, unknown)


def by_columns(text: str) -> set[str]:
    at, _ = fleet()
    found = compile_filter(text)(at, ALL_ROWS) & at.columns.column("present")
    return {at.columns.ids.id_of(int(row)) for row in np.flatnonzero(found)}


def by_rows(text: str) -> set[str]:
    """As a watch looks: row by row."""
    at, _ = fleet()
    wanted = compile_filter(text)
    return {
        at.columns.ids.id_of(row) for row in at.columns.rows() if wanted(at, np.array([row]))[0]
    }


def by_interpreter(text: str) -> set[str]:
    at, nodes = fleet()
    return {
        node_id for node_id, node in nodes.items() if holds(parse_filter(text), node, at.now_ms)
    }


# The interpreter.


def holds(expression: Expression, node: node_pb2.Node, now_ms: int) -> bool:
    match expression:
        case Comparison():
            return compares(expression, node)
        case Negation(of):
            return not holds(of, node, now_ms)
        case Conjunction(parts):
            return all(holds(part, node, now_ms) for part in parts)
        case Disjunction(parts):
            return any(holds(part, node, now_ms) for part in parts)


def value_of(path: str, node: node_pb2.Node) -> Any:
    """The value at a path of the twin; None for a message that is not set."""
    if path == "conflicted":
        return bool(node.conflicted_aspects)
    if path == "unknown":
        return node.connectivity.HasField("unknown_since")
    value: Any = node
    for name in path.split("."):
        field = value.DESCRIPTOR.fields_by_name[name]
        is_message = field.message_type is not None and not field.is_repeated
        # What is below an unset message has its empty value; an unset time or duration is none.
        is_time = is_message and field.message_type.full_name.startswith("google.protobuf.")
        if is_time and not value.HasField(name):
            return None
        value = getattr(value, name)
    return value


def compares(given_: Comparison, node: node_pb2.Node) -> bool:
    name = ".".join(given_.path)
    if name.startswith("labels."):
        return compares_label(given_, name.removeprefix("labels."), node)
    field = BY_NAME[name]
    held, sign, text = value_of(field.path, node), given_.operator, given_.value
    if sign == "":
        return bool(held)
    if sign == "!=":
        return not compares(Comparison(given_.path, "=", text, given_.quoted, 0, 0), node)
    if sign == ":" and text == "*":
        return held is not None and (bool(held) or field.kind in (Kind.TIME, Kind.DURATION))
    match field.kind:
        case Kind.TAGS | Kind.LABELS:
            return any(like(text, tag) for tag in held)
        case Kind.ENUM:
            names = [
                v.name
                for v in field.enum_type.values
                if v.name.endswith("_" + text) or v.name == text
            ]
            return ordered(sign, held, field.enum_type.values_by_name[names[0]].number)
        case Kind.NUMBER:
            return ordered(sign, held, float(text))
        case Kind.FLAG:
            return held is (text == "true")
        case Kind.VERSION:
            return compares_version(sign, held, text)
        case Kind.TIME:
            return held is not None and ordered(
                sign, held.ToMilliseconds(), datetime.fromisoformat(text).timestamp() * 1000
            )
        case Kind.DURATION:
            return held is not None and ordered(
                sign, held.ToMilliseconds(), float(text.removesuffix("s")) * 1000
            )
        case _:
            return like(text, held) if sign in "=:" else ordered(sign, held, text)


def compares_label(given_: Comparison, key: str, node: node_pb2.Node) -> bool:
    labels = dict(node.spec.labels)
    if given_.operator == "!=":
        return not (key in labels and like(given_.value, labels[key]))
    if key not in labels:
        return False
    if given_.operator in "=:":
        return given_.value == "*" or like(given_.value, labels[key])
    return ordered(given_.operator, labels[key], given_.value)


def compares_version(sign: str, held: str, text: str) -> bool:
    if "*" in text and sign in "=:":
        return like(text, held) or like(text, held.removeprefix("souverix-rempart-"))
    one, other = read_version(held), read_version(text)
    if one is None or other is None:
        return sign in "=:" and held == text
    if one.component and other.component and one.component != other.component:
        return False
    keys = [(each.release, prerelease_key(each.prerelease)) for each in (one, other)]
    return ordered(sign, keys[0], keys[1])


def like(pattern: str, text: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None


def ordered(sign: str, one: Any, other: Any) -> bool:
    return bool(
        {
            "=": one == other,
            ":": one == other,
            "<": one < other,
            "<=": one <= other,
            ">": one > other,
            ">=": one >= other,
        }[sign]
    )


# Random filters.

#: Fields whose value the twin does not show as such.
NOT_SHOWN = ("governing_policy",)
SIGNS = ("=", "!=", "<", "<=", ">", ">=", ":")
EQUALITIES = ("=", "!=", ":")


def comparisons() -> st.SearchStrategy[str]:
    found = []
    for field in FIELDS:
        if field.path not in NOT_SHOWN:
            names = st.sampled_from([field.path, *field.names])
            found.append(st.builds(lambda n, rest: f"{n}{rest}", names, _rest(field.kind, field)))
    labels = st.sampled_from(
        ["labels:site", "labels:*", "labels:none", "labels.site:*", "labels.site=s1", "labels.site!=s1",
         "labels.site>s1", "labels.none!=x", "labels.site=s*"]
    )  # fmt: skip
    return st.one_of(*found, labels)


def _rest(kind: Kind, field: Any) -> st.SearchStrategy[str]:
    """A comparator and a value that fit a kind."""

    def of(signs: tuple[str, ...], values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.builds(lambda sign, value: f" {sign} {value}", st.sampled_from(signs), values)

    _, nodes = fleet()
    match kind:
        case Kind.LABELS:
            return st.just(":site")
        case Kind.TAGS:
            return of((":",), st.sampled_from(["lab", "gateway", "none", "*", "*a*", '"west"']))
        case Kind.FLAG:
            return st.one_of(st.just(""), of(EQUALITIES, st.sampled_from(["true", "false"])))
        case Kind.ENUM:
            names = [value.name for value in field.enum_type.values]
            prefix = names[0].removesuffix("UNSPECIFIED")
            values = st.sampled_from(names + [name.removeprefix(prefix) for name in names])
            return st.one_of(of(SIGNS, values), st.just(":*"))
        case Kind.NUMBER:
            return st.one_of(
                of(SIGNS, st.sampled_from(["0", "1", "2.5", "5", "-1"])), st.just(":*")
            )
        case Kind.TIME:
            held = [value_of(field.path, node) for node in nodes.values()]
            times = [each.ToJsonString() for each in held if each is not None] or [
                "2026-01-01T00:00:00Z"
            ]
            return st.one_of(of(SIGNS, st.sampled_from(times)), st.just(":*"))
        case Kind.DURATION:
            held = [value_of(field.path, node) for node in nodes.values()]
            ages = [f"{each.ToMilliseconds() / 1000}s" for each in held if each is not None]
            return st.one_of(of(SIGNS, st.sampled_from([*ages, "0s"])), st.just(":*"))
        case Kind.VERSION:
            versions = [
                "1.4.6",
                "1.4.7",
                "1.5",
                "v1.5.0-rc.1",
                "souverix-rempart-1.4.7",
                "other-1.4.7",
                "v2",
            ]
            patterns = of(EQUALITIES, st.sampled_from(["1.4.*", "*7", "main", '""']))
            return st.one_of(of(SIGNS, st.sampled_from(versions)), patterns, st.just(":*"))
        case Kind.ID:
            ids = st.sampled_from(
                ["n001", "n01*", "*7", "*0*1*", "n*3", "a", "zzzzzzzzzzzzzzzzzzzzzzzzzzz"]
            )
            return st.one_of(
                of(EQUALITIES, ids), of(SIGNS, st.sampled_from(["n010", "n0105", "a", "z"]))
            )
        case _:
            texts = st.sampled_from(
                ["north", '"south east"', "*th*", "edge-a1", CUT_OFF, "base", "LIVE_OK", '""']
            )
            return st.one_of(of(SIGNS, texts), st.just(":*"))


@functools.cache
def filters() -> st.SearchStrategy[str]:
    return st.recursive(
        comparisons(),
        lambda inner: st.one_of(
            st.builds("{} AND {}".format, inner, inner),
            st.builds("{} {}".format, inner, inner),
            st.builds("({}) OR ({})".format, inner, inner),
            st.builds("NOT ({})".format, inner),
            st.builds("-({})".format, inner),
        ),
        max_leaves=6,
    )


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_columns_and_twins_agree(data: st.DataObject) -> None:
    text = data.draw(filters())
    assert by_columns(text) == by_interpreter(text), text


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_row_alone_fits_as_it_does_among_all(data: st.DataObject) -> None:
    text = data.draw(filters())
    assert by_rows(text) == by_columns(text), text


def test_every_field_tells_nodes_apart() -> None:
    at, _ = fleet()
    everything = set(by_columns(""))
    for field in FIELDS:
        if field.kind not in (Kind.FLAG, Kind.LABELS):
            assert by_columns(f"{field.path}:*") <= everything
    assert at.columns.values["governing_policy"].known("base")
    assert by_columns("policy = base") < everything


# What is refused.


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("colour = red", "position 1: 'colour' is no field; the fields are "),
        ("a=1", "the fields are attestation, attested_until, component_type, "),
        ("mode = GREEN", "position 8: expected one of UNSPECIFIED, LIVE, DELAYED, "),
        ("score > much", "position 9: expected a number after >, not 'much'"),
        ("create_time > yesterday", "position 15: expected a time such as 2026-02-27T03:45:00Z"),
        ("create_time > 2026-02-30T00:00:00Z", "expected a time"),
        ("stale_by > soon", "expected a duration such as 90s"),
        ("stale_by > 99999999999999999999d", "expected a duration of less"),
        ("optimistic = maybe", "expected true or false"),
        (
            "optimistic > true",
            "position 1: optimistic is true or false: it is compared by =, !=, :",
        ),
        ("tags = lab", "tags is a set of words: it is compared by :, not by ="),
        ("labels = site", "labels is a set of named values: it is compared by :"),
        ("version < newest", "expected a version such as 1.4.7"),
        ("mode", 'position 5: expected =, !=, <, <=, >, >= or ":" after mode'),
        ("spec.colour = 1", "is no field"),
    ],
)
def test_refusals_say_where_and_what_was_expected(text: str, told: str) -> None:
    with pytest.raises(InvalidWrite) as caught:
        compile_filter(text)
    assert told in str(caught.value)
