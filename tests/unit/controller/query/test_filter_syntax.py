from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.query.filter_syntax import (
    MAX_COMPARISONS,
    MAX_DEPTH,
    MAX_FILTER_BYTES,
    Comparison,
    Conjunction,
    Disjunction,
    Expression,
    Negation,
    parse_filter,
)
from federation.errors import InvalidWrite


def shape(found: Expression) -> str:
    """The tree in brackets."""
    match found:
        case Comparison():
            return ".".join(found.path) + found.operator + found.value
        case Negation(of):
            return f"!{shape(of)}"
        case Conjunction(parts):
            return f"({' & '.join(map(shape, parts))})"
        case Disjunction(parts):
            return f"({' | '.join(map(shape, parts))})"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "()"),
        ("  ", "()"),
        ("a = b", "a=b"),
        ("a=b", "a=b"),
        ("a.b.c:d", "a.b.c:d"),
        ("a AND b", "(a & b)"),
        ("a=1 b=2", "(a=1 & b=2)"),
        ("a=1 AND b=2 c=3", "(a=1 & b=2 & c=3)"),
        # OR binds more tightly than AND and than a blank (AIP-160).
        ("a AND b OR c", "(a & (b | c))"),
        ("a b OR c", "(a & (b | c))"),
        ("a OR b AND c", "((a | b) & c)"),
        ("(a AND b) OR c", "((a & b) | c)"),
        ("NOT a", "!a"),
        ("-a", "!a"),
        ("NOT a OR b", "(!a | b)"),
        ("NOT (a OR b)", "!(a | b)"),
        ("-(a b)", "!(a & b)"),
        ("NOT -a", "!!a"),
        ("((a))", "a"),
        ("( a = 1 )", "a=1"),
        ("score > -1", "score>-1"),
        ("a <= 1 AND b >= 2 AND c != 3 AND d < 4", "(a<=1 & b>=2 & c!=3 & d<4)"),
        ("t > 2026-02-27T03:45:00+01:00", "t>2026-02-27T03:45:00+01:00"),
        ('a = "x y"', "a=x y"),
        ("a = 'x y'", "a=x y"),
        (r'a = "x \"y\" \\"', 'a=x "y" \\'),
        ('labels."a.b/c" = d', "labels.a.b/c=d"),
        ("labels.a-b/c:*", "labels.a-b/c:*"),
        ("a = NOTHING", "a=NOTHING"),
        ("ORDER = 1", "ORDER=1"),
        ("NOT_A", "NOT_A"),
        ("a = AND", "a=AND"),
    ],
)
def test_grammar(text: str, wanted: str) -> None:
    assert shape(parse_filter(text)) == wanted


@pytest.mark.parametrize(
    ("text", "position", "expected"),
    [
        ("a =", 4, 'a value after "="'),
        ("a = AND AND", 12, "a field"),
        ("= a", 1, "a field"),
        ("a AND", 6, "a field"),
        ("a OR", 5, "a field"),
        ("OR a", 1, "a field"),
        ("AND a", 1, "a field, not AND"),
        ("a AND OR b", 7, "a field, not OR"),
        ("NOT", 4, "a field"),
        ("(a", 3, '")"'),
        ("a)", 2, "a field, AND, OR, or the end"),
        ("()", 2, "a field"),
        ("a.", 3, 'a name after "."'),
        ('a = "b', 5, "does not end"),
        ("a = (b OR c)", 5, 'a value after "="'),
        ("f(a)", 2, ""),
        ("a == b", 4, 'a value after "="'),
        ("ä = 1", 1, "a field"),
        ("a, b", 2, "a field"),
    ],
)
def test_refusals_name_position_and_what_was_expected(
    text: str, position: int, expected: str
) -> None:
    if text == "f(a)":
        # A word alone and a group: no function is known, and no field without a comparison either.
        assert shape(parse_filter(text)) == "(f & a)"
        return
    with pytest.raises(InvalidWrite, match=rf"filter, position {position}: ") as caught:
        parse_filter(text)
    assert expected in str(caught.value)
    assert caught.value.metadata["field"] == "filter"


def test_length_terms_and_depth_are_bounded() -> None:
    with pytest.raises(InvalidWrite, match="bytes long"):
        parse_filter("a" * (MAX_FILTER_BYTES + 1))
    parse_filter(" ".join(["a"] * MAX_COMPARISONS))
    with pytest.raises(InvalidWrite, match="more than 64 comparisons"):
        parse_filter(" ".join(["a"] * (MAX_COMPARISONS + 1)))
    parse_filter("(" * MAX_DEPTH + "a" + ")" * MAX_DEPTH)
    for opening in ("(", "-", "NOT "):
        with pytest.raises(InvalidWrite, match="deeper"):
            parse_filter(opening * (MAX_DEPTH + 1) + "a" + ")" * (MAX_DEPTH + 1))


@given(st.text(alphabet="ab.:=<>!()\"'\\ *-ANDORT1é\n", max_size=60))
def test_any_text_is_parsed_or_refused_by_position(text: str) -> None:
    try:
        parse_filter(text)
    except InvalidWrite as error:
        found = re.match(r"filter, position (\d+): ", str(error))
        assert found is not None
        assert 1 <= int(found[1]) <= len(text) + 1
