"""Filters: a text becomes one condition over the columns. Owns how the tree of a filter is put together; the grammar is
`filter_syntax`'s, and what a comparison means is `comparisons`'.
"""

from __future__ import annotations

from controller.query.comparisons import condition_of
from controller.query.conditions import Filter, all_of, any_of, none_of
from controller.query.filter_syntax import (
    Comparison,
    Conjunction,
    Disjunction,
    Expression,
    Negation,
    parse_filter,
)


def compile_filter(text: str) -> Filter:
    """The filter a text stands for. Raises `InvalidWrite` naming the position, what was expected, and the fields."""
    return _bind(parse_filter(text))


def _bind(expression: Expression) -> Filter:
    match expression:
        case Comparison():
            return condition_of(expression)
        case Negation(of):
            return none_of(_bind(of))
        case Conjunction(parts):
            return all_of([_bind(part) for part in parts])
        case Disjunction(parts):
            return any_of([_bind(part) for part in parts])
