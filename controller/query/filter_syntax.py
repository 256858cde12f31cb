"""The grammar of filters: text to a tree of comparisons. Owns the grammar and its bounds; knows no field.

It is AIP-160's (google.aip.dev/160): `AND` and mere blanks join, `OR` binds more tightly than `AND`, `NOT` and `-`
negate, parentheses group, `:` asks for what a field has. Left out are functions and words without a field.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from federation.errors import InvalidWrite

#: Longest filter: a page of text, and far more than anybody writes.
MAX_FILTER_BYTES: Final = 4096

#: Comparisons in one filter: each costs a pass over all nodes.
MAX_COMPARISONS: Final = 64

#: Parentheses and negations within each other.
MAX_DEPTH: Final = 32

_BLANK = re.compile(r"\s*")
_COMPARATOR = re.compile(r"<=|>=|!=|=|<|>|:")
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PART = re.compile(r"[A-Za-z0-9_/-]+")
_KEYWORD = re.compile(r"(?:AND|OR|NOT)(?![A-Za-z0-9_./-])")
#: A value without quotes: up to a blank or a parenthesis, so that times and versions need none.
_BARE = re.compile(r"""[^\s()"'<>=!]+""")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"|' + r"'((?:[^'\\]|\\.)*)'", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison. `position` is that of the field in the text, from 1; `value_position` that of the value."""

    path: tuple[str, ...]
    #: One of `= != < <= > >= :`; empty for a field that stands alone.
    operator: str
    value: str
    quoted: bool
    position: int
    value_position: int


@dataclass(frozen=True, slots=True)
class Negation:
    """What must not hold."""

    of: Expression


@dataclass(frozen=True, slots=True)
class Conjunction:
    """What must all hold; nothing: everything fits."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Disjunction:
    """Of what at least one must hold."""

    parts: tuple[Expression, ...]


Expression = Comparison | Negation | Conjunction | Disjunction


def parse_filter(text: str) -> Expression:
    """The tree of a filter; an empty filter fits everything. Raises `InvalidWrite`, naming position and what was
    expected.
    """
    size = len(text.encode())
    if size > MAX_FILTER_BYTES:
        raise InvalidWrite(
            f"filter is {size} bytes long; it may have {MAX_FILTER_BYTES}", field="filter"
        )
    return _Parser(text).whole()


def refused(position: int, message: str) -> InvalidWrite:
    """The error for what stands at a position of the filter."""
    return InvalidWrite(f"filter, position {position}: {message}", field="filter")


class _Parser:
    """Recursive descent over one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._comparisons = 0
        self._depth = 0

    def whole(self) -> Expression:
        self._skip_blanks()
        if self._at == len(self._text):
            return Conjunction(())
        found = self._expression()
        if self._at < len(self._text):
            raise self._expected("a field, AND, OR, or the end")
        return found

    def _expression(self) -> Expression:
        """Factors joined by AND or by blanks."""
        parts = [self._factor()]
        while True:
            if self._keyword("AND"):
                parts.append(self._factor())
            elif self._at < len(self._text) and self._text[self._at] != ")":
                if self._sees_keyword("OR"):
                    raise self._expected("a field before OR")
                parts.append(self._factor())
            else:
                return parts[0] if len(parts) == 1 else Conjunction(tuple(parts))

    def _factor(self) -> Expression:
        parts = [self._term()]
        while self._keyword("OR"):
            parts.append(self._term())
        return parts[0] if len(parts) == 1 else Disjunction(tuple(parts))

    def _term(self) -> Expression:
        negated = self._keyword("NOT") or self._sign("-")
        if negated or self._text.startswith("(", self._at):
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise refused(self._at + 1, f"parentheses nest deeper than {MAX_DEPTH}")
            found = self._term() if negated else self._group()
            self._depth -= 1
            return Negation(found) if negated else found
        return self._comparison()

    def _group(self) -> Expression:
        opened = self._at + 1
        self._at += 1
        self._skip_blanks()
        found = self._expression()
        if not self._sign(")"):
            raise self._expected(f'")" for the "(" at position {opened}')
        return found

    def _comparison(self) -> Expression:
        position = self._at + 1
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            raise refused(position, f"there are more than {MAX_COMPARISONS} comparisons")
        for word in ("AND", "OR", "NOT"):
            if self._sees_keyword(word):
                raise self._expected(f"a field, not {word}")
        path = [self._take(_FIELD, "a field")]
        while self._text.startswith(".", self._at):
            self._at += 1
            quoted = self._quoted()
            path.append(self._take(_PART, 'a name after "."') if quoted is None else quoted)
        self._skip_blanks()
        found = _COMPARATOR.match(self._text, self._at)
        if found is None:
            return Comparison(tuple(path), "", "", False, position, self._at + 1)
        self._at = found.end()
        self._skip_blanks()
        value_position = self._at + 1
        text = self._quoted()
        value = self._take(_BARE, f'a value after "{found[0]}"') if text is None else text
        self._skip_blanks()
        return Comparison(tuple(path), found[0], value, text is not None, position, value_position)

    def _quoted(self) -> str | None:
        """The text in quotes that stands here; None when none does."""
        if self._at >= len(self._text) or self._text[self._at] not in "\"'":
            return None
        found = _QUOTED.match(self._text, self._at)
        if found is None:
            raise refused(self._at + 1, "the quotation that begins here does not end")
        self._at = found.end()
        return _ESCAPED.sub(r"\1", found[1] if found[1] is not None else found[2])

    def _take(self, pattern: re.Pattern[str], what: str) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise self._expected(what)
        self._at = found.end()
        return found[0]

    def _keyword(self, word: str) -> bool:
        if not self._sees_keyword(word):
            return False
        self._at += len(word)
        self._skip_blanks()
        return True

    def _sees_keyword(self, word: str) -> bool:
        found = _KEYWORD.match(self._text, self._at)
        return found is not None and found[0] == word

    def _sign(self, sign: str) -> bool:
        if not self._text.startswith(sign, self._at):
            return False
        self._at += len(sign)
        self._skip_blanks()
        return True

    def _skip_blanks(self) -> None:
        found = _BLANK.match(self._text, self._at)
        self._at = found.end() if found is not None else self._at

    def _expected(self, what: str) -> InvalidWrite:
        rest = self._text[self._at : self._at + 20]
        stands = f'"{rest}" stands there' if rest else "the filter ends there"
        return refused(self._at + 1, f"expected {what}; {stands}")
