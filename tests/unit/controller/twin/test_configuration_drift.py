from __future__ import annotations

import random
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from controller.twin.configuration_drift import (
    ComparisonRules,
    FieldDifference,
    compare_fields,
    fields_of,
    join_rules,
    leaf_of,
    spell_path,
    value_of,
)
from souverix.fleet.v1 import drift_pb2

LOW = drift_pb2.DRIFT_SEVERITY_LOW
MEDIUM = drift_pb2.DRIFT_SEVERITY_MEDIUM
CRITICAL = drift_pb2.DRIFT_SEVERITY_CRITICAL

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
scalars = st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers(-9, 9) | text
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
documents = st.dictionaries(text, values, max_size=4)


def struct(document: dict[str, Any]) -> Struct:
    made = Struct()
    made.update(document)
    return made


def differences(
    desired: dict[str, Any], actual: dict[str, Any], **rules: Any
) -> list[FieldDifference]:
    joined = join_rules([(_rules(**rules), False)])
    return compare_fields(fields_of(struct(desired)), fields_of(struct(actual)), joined)


def _rules(defaults: dict[str, Any] | None = None, **others: Any) -> drift_pb2.DriftRules:
    rules = drift_pb2.DriftRules(**others)
    if defaults is not None:
        rules.defaults.update(defaults)
    return rules


@pytest.mark.parametrize(
    ("desired", "actual"),
    [
        ({"cps": 2000}, {"cps": 2000.0}),
        ({"cps": 2000}, {"cps": "2000"}),
        ({"cps": "2e3"}, {"cps": 2000}),
        ({"zero": 0}, {"zero": -0.0}),
        ({"on": True}, {"on": "true"}),
        ({"on": "false"}, {"on": False}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": None}, {}),
        ({}, {"a": {"b": None}}),
        ({"a": {}}, {}),
        ({"l": [{"x": 1, "y": None}]}, {"l": [{"x": "1"}]}),
        ({"l": [1, "2", True]}, {"l": ["1", 2, "true"]}),
    ],
)
def test_spellings_of_one_document_do_not_drift(
    desired: dict[str, Any], actual: dict[str, Any]
) -> None:
    assert differences(desired, actual) == []
    assert differences(actual, desired) == []


@pytest.mark.parametrize(
    ("desired", "actual", "fields"),
    [
        ({"stir": {"mode": "hard"}}, {"stir": {"mode": "soft"}}, ["stir.mode"]),
        ({"a": 1}, {"a": True}, ["a"]),
        ({"a": 0}, {"a": False}, ["a"]),
        ({"a": "1.0"}, {"a": "1"}, ["a"]),
        ({"a": "TRUE"}, {"a": True}, ["a"]),
        ({"a": 1}, {}, ["a"]),
        ({}, {"a": 1}, ["a"]),
        ({"a": []}, {}, ["a"]),
        ({"a": ""}, {}, ["a"]),
        ({"l": [1, 2]}, {"l": [2, 1]}, ["l"]),
        ({"l": [1]}, {"l": [1, 1]}, ["l"]),
        ({"a": 1}, {"a": {"b": 1}}, ["a", "a.b"]),
        ({"a.b": 1}, {"a": {"b": 1}}, ["a.b", '"a.b"']),
        ({"b": 1, "a": 1}, {"b": 2, "a": 2}, ["a", "b"]),
    ],
)
def test_what_means_another_thing_drifts(
    desired: dict[str, Any], actual: dict[str, Any], fields: list[str]
) -> None:
    assert sorted(d.field for d in differences(desired, actual)) == sorted(fields)
    assert sorted(d.field for d in differences(actual, desired)) == sorted(fields)


def test_missing_and_other_values_matter_more_than_extra_ones() -> None:
    found = differences({"missing": 1, "other": 1}, {"other": 2, "extra": 3})
    assert {d.field: (d.desired, d.actual, d.severity) for d in found} == {
        "missing": (1.0, None, MEDIUM),
        "other": (1.0, 2.0, MEDIUM),
        "extra": (None, 3.0, LOW),
    }


def test_a_stated_default_and_an_absent_field_are_equal() -> None:
    defaults = {"log": {"level": "info"}}
    assert differences({"log": {"level": "info"}}, {}, defaults=defaults) == []
    assert differences({}, {"log": {"level": "info"}}, defaults=defaults) == []
    assert (
        differences({"log": {"level": None}}, {"log": {"level": "info"}}, defaults=defaults) == []
    )
    (found,) = differences({"log": {"level": "debug"}}, {}, defaults=defaults)
    assert (found.desired, found.actual) == ("debug", "info")
    assert differences({}, {}, defaults=defaults) == []


def test_lists_declared_unordered_are_compared_as_sets_with_repeats() -> None:
    rules = {"unordered_fields": ["dns"]}
    assert differences({"dns": ["a", 1, True]}, {"dns": ["1", "true", "a"]}, **rules) == []
    assert differences({"dns": ["a", "a"]}, {"dns": ["a", "b"]}, **rules) != []
    assert differences({"ntp": ["a", "b"]}, {"ntp": ["b", "a"]}, **rules) != []


def test_the_longest_path_decides_how_much_a_field_matters() -> None:
    rules = {"severities": {"stir": LOW, "stir.mode": CRITICAL}}
    found = differences({"stir": {"mode": 1, "url": 1}, "x": 1}, {}, **rules)
    assert {d.field: d.severity for d in found} == {
        "stir.mode": CRITICAL,
        "stir.url": LOW,
        "x": MEDIUM,
    }


def test_the_nearer_level_decides_unless_one_above_is_enforced() -> None:
    far = _rules({"a": 1, "b": 1}, severities={"a": LOW, "b": LOW}, unordered_fields=["l"])
    near = _rules({"a": 2}, severities={"a": CRITICAL}, unordered_fields=["m"])
    open_rules = join_rules([(far, False), (near, False)])
    assert open_rules.defaults == {("a",): 2.0, ("b",): 1.0}
    assert open_rules.severities == {"a": CRITICAL, "b": LOW}
    assert open_rules.unordered == {"l", "m"}
    held = join_rules([(far, True), (near, False)])
    assert held.defaults == {("a",): 1.0, ("b",): 1.0}
    assert held.severities == {"a": LOW, "b": LOW}


def shuffled(value: Any, chance: random.Random) -> Any:
    """The value with its keys in another order, and absent fields spelled in other ways."""
    if isinstance(value, dict):
        items = [(key, shuffled(each, chance)) for key, each in value.items() if each is not None]
        chance.shuffle(items)
        return dict(items)
    if isinstance(value, list):
        return [shuffled(each, chance) for each in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return chance.choice([value, float(value), str(value)])
    if isinstance(value, bool):
        return chance.choice([value, str(value).lower()])
    return value


@given(documents)
def test_equal_documents_never_drift(document: dict[str, Any]) -> None:
    assert differences(document, document) == []


@given(documents, st.integers())
def test_normalising_never_invents_drift(document: dict[str, Any], seed: int) -> None:
    assert differences(document, shuffled(document, random.Random(seed))) == []


@given(documents, documents, documents)
def test_defaults_never_invent_drift(
    document: dict[str, Any], other: dict[str, Any], defaults: dict[str, Any]
) -> None:
    assert differences(document, document, defaults=defaults) == []
    bare = {d.field for d in differences(document, other)}
    assert {d.field for d in differences(document, other, defaults=defaults)} <= bare


@given(documents, documents)
def test_the_same_fields_differ_from_either_side(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    there = [(d.field, d.desired, d.actual) for d in differences(one, other)]
    back = [(d.field, d.actual, d.desired) for d in differences(other, one)]
    assert there == back


@given(documents)
def test_everything_stated_is_missing_from_an_empty_document(document: dict[str, Any]) -> None:
    fields = fields_of(struct(document))
    assert [d.path for d in differences(document, {})] == sorted(fields)


@given(values)
def test_a_value_survives_its_way_to_a_leaf_and_back(value: Any) -> None:
    document = struct({"v": value})
    leaf = leaf_of(document.fields["v"])
    again = value_of(leaf)
    if again is None:
        assert leaf is None
    else:
        assert compare_fields({("v",): leaf}, {("v",): leaf_of(again)}, ComparisonRules()) == []


@given(st.lists(text, min_size=1, max_size=3), st.lists(text, min_size=1, max_size=3))
def test_no_two_paths_are_spelled_alike(one: list[str], other: list[str]) -> None:
    assert (spell_path(tuple(one)) == spell_path(tuple(other))) == (one == other)
