"""How two configuration documents differ, field by field, after normalising. Owns the rules of normalising, so that no
difference of spelling is taken for drift; knows no node and no policy path.

The fields of a document are its leaves: everything that is no object. Lists are leaves. A field that is null, or an
object without fields, is absent. Numbers are equal as numbers; a text that spells a number or a truth value is equal to
that number or truth value.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from google.protobuf.struct_pb2 import Struct, Value

from souverix.fleet.v1 import drift_pb2

#: A field's value: text, number, truth value or list; within lists also objects and null.
Leaf = str | float | bool | None | list["Leaf"] | dict[str, "Leaf"]

#: Names from the document down to a field.
Path = tuple[str, ...]

_PLAIN_NAME = re.compile(r'[^."\\\x00-\x20]+')
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)

#: Longest text that may spell a number: those that JSON writes are shorter.
MAX_NUMBER_LENGTH = 32

#: A field that should be there and differs or is missing.
DIFFERS_SEVERITY = drift_pb2.DRIFT_SEVERITY_MEDIUM

#: A field that nobody asked for.
EXTRA_SEVERITY = drift_pb2.DRIFT_SEVERITY_LOW


class FieldDifference(NamedTuple):
    """One field that differs. None: it is, or should be, absent."""

    path: Path
    desired: Leaf
    actual: Leaf
    severity: drift_pb2.DriftSeverity

    @property
    def field(self) -> str:
        """The path as people write it: "stir.enforcement_mode"."""
        return spell_path(self.path)


@dataclass(frozen=True, slots=True)
class ComparisonRules:
    """How documents are compared; fields are spelled as in `FieldDifference.field`."""

    defaults: Mapping[Path, Leaf] = field(default_factory=dict)
    severities: Mapping[str, drift_pb2.DriftSeverity] = field(default_factory=dict)
    unordered: frozenset[str] = frozenset()

    def severity_of(
        self, path: Path, otherwise: drift_pb2.DriftSeverity
    ) -> drift_pb2.DriftSeverity:
        """The severity set for a field, or for the nearest object it is in."""
        if self.severities:
            for length in range(len(path), 0, -1):
                found = self.severities.get(spell_path(path[:length]))
                if found:
                    return found
        return otherwise


def spell_path(path: Path) -> str:
    """A path, dotted; names that would be misread so are in quotes, as in JSON."""
    return ".".join(
        name if _PLAIN_NAME.fullmatch(name) else json.dumps(name, ensure_ascii=False)
        for name in path
    )


def fields_of(document: Struct) -> dict[Path, Leaf]:
    """The fields of a document by path."""
    return dict(_fields_below(document, ()))


def join_rules(levels: Iterable[tuple[drift_pb2.DriftRules, bool]]) -> ComparisonRules:
    """The rules of several levels, from the root down, each with whether it is enforced.

    Field by field the nearer level decides, unless one above it is enforced.
    """
    defaults: dict[Path, Leaf] = {}
    severities: dict[str, drift_pb2.DriftSeverity] = {}
    unordered: set[str] = set()
    enforced_defaults: set[Path] = set()
    enforced_severities: set[str] = set()
    for rules, enforced in levels:
        stated = fields_of(rules.defaults)
        defaults.update(
            (path, leaf) for path, leaf in stated.items() if path not in enforced_defaults
        )
        severities.update(
            (name, each)
            for name, each in rules.severities.items()
            if name not in enforced_severities
        )
        unordered.update(rules.unordered_fields)
        if enforced:
            enforced_defaults.update(stated)
            enforced_severities.update(rules.severities)
    return ComparisonRules(defaults, severities, frozenset(unordered))


def compare_fields(
    desired: Mapping[Path, Leaf],
    actual: Mapping[Path, Leaf],
    rules: ComparisonRules,
) -> list[FieldDifference]:
    """The fields that differ, ordered by path."""
    found = []
    for path in desired.keys() | actual.keys():
        default = rules.defaults.get(path)
        wanted, present = desired.get(path, default), actual.get(path, default)
        unordered = bool(rules.unordered) and spell_path(path) in rules.unordered
        if not equal(wanted, present, unordered=unordered):
            usual = EXTRA_SEVERITY if wanted is None else DIFFERS_SEVERITY
            found.append(FieldDifference(path, wanted, present, rules.severity_of(path, usual)))
    return sorted(found, key=lambda difference: difference.path)


def equal(one: Leaf, other: Leaf, *, unordered: bool = False) -> bool:
    """Tells whether two values mean the same. `unordered`: of lists, whatever the order of their items."""
    if isinstance(one, bool) or isinstance(other, bool):
        return _spelled_truth(one) is not None and _spelled_truth(one) == _spelled_truth(other)
    if isinstance(one, float) or isinstance(other, float):
        return _same_number(one, other)
    if isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return False
        if unordered:
            one, other = sorted(one, key=_order), sorted(other, key=_order)
        return all(equal(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
    return one == other


def leaf_of(value: Value) -> Leaf:
    """A value as a leaf; null and the value of no kind are None."""
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        items = ((name, leaf_of(each)) for name, each in value.struct_value.fields.items())
        return {name: leaf for name, leaf in items if leaf is not None}
    if kind == "list_value":
        return [leaf_of(each) for each in value.list_value.values]
    if kind is None or kind == "null_value":
        return None
    leaf: Leaf = getattr(value, kind)
    return leaf


def value_of(leaf: Leaf) -> Value | None:
    """A leaf as a value; None for what is absent."""
    if leaf is None:
        return None
    value = Value()
    if isinstance(leaf, bool):
        value.bool_value = leaf
    elif isinstance(leaf, float):
        value.number_value = leaf
    elif isinstance(leaf, str):
        value.string_value = leaf
    elif isinstance(leaf, dict):
        value.struct_value.SetInParent()
        value.struct_value.update(leaf)
    else:
        value.list_value.SetInParent()
        value.list_value.extend(leaf)  # type: ignore[arg-type] # nested values are made of the same
    return value


def _fields_below(struct: Struct, path: Path) -> Iterator[tuple[Path, Leaf]]:
    for name, value in struct.fields.items():
        if value.HasField("struct_value"):
            yield from _fields_below(value.struct_value, (*path, name))
        else:
            leaf = leaf_of(value)
            if leaf is not None:
                yield (*path, name), leaf


def _spelled_truth(leaf: Leaf) -> bool | None:
    if isinstance(leaf, bool):
        return leaf
    return {"true": True, "false": False}.get(leaf) if isinstance(leaf, str) else None


def _same_number(one: Leaf, other: Leaf) -> bool:
    a, b = _spelled_number(one), _spelled_number(other)
    if a is None or b is None:
        return False
    return a == b or (math.isnan(a) and math.isnan(b))


def _spelled_number(leaf: Leaf) -> float | None:
    if isinstance(leaf, float):
        return leaf
    if isinstance(leaf, str) and len(leaf) <= MAX_NUMBER_LENGTH and _NUMBER.fullmatch(leaf):
        return float(leaf)
    return None


def _order(leaf: Leaf) -> str:
    """Sorts items so that those that are equal stand at the same place, whichever way they are spelled."""
    number = _spelled_number(leaf)
    if number is not None:
        return repr(number + 0.0)
    return leaf if isinstance(leaf, str) else json.dumps(leaf, sort_keys=True)
