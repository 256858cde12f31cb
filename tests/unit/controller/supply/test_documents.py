from __future__ import annotations

import json

import pytest

from controller.supply.documents import MAX_DEPTH, BadDocument, read_json


def read(data: bytes, max_bytes: int = 10_000, max_values: int = 1_000) -> object:
    return read_json(data, max_bytes=max_bytes, max_values=max_values)


def reason(data: bytes, **bounds: int) -> str:
    with pytest.raises(BadDocument) as caught:
        read(data, **bounds)
    return caught.value.reason


def test_plain_json_is_read() -> None:
    document = {"a": [1, 2.5, None, True, "é\\u0041 {["], "b": {}}
    assert read(json.dumps(document).encode()) == document


def test_size_is_checked_first() -> None:
    assert reason(b"[" * 11, max_bytes=10) == "DOCUMENT_TOO_LARGE"


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_deep_nesting_is_refused_without_recursion(opening: bytes) -> None:
    assert reason(opening * (MAX_DEPTH + 1)) == "DOCUMENT_TOO_DEEP"
    assert reason(opening * 1_000_000, max_bytes=10_000_000) == "DOCUMENT_TOO_DEEP"


def test_brackets_in_texts_do_not_nest() -> None:
    assert read(json.dumps("[" * 100).encode()) == "[" * 100
    assert read(json.dumps('\\"' + "{" * 100).encode()) == '\\"' + "{" * 100


def test_number_of_values_is_bounded() -> None:
    assert reason(b"[" + b"1," * 2000 + b"1]") == "DOCUMENT_TOO_FULL"
    assert reason(b"[" + b"{}," * 2000 + b"1]") == "DOCUMENT_TOO_FULL"


def test_a_name_that_stands_twice_is_refused() -> None:
    assert reason(b'{"a": 1, "b": {"x": 1, "x": 2}}') == "DOCUMENT_AMBIGUOUS"
    assert reason(b'{"a": 1, "\\u0061": 2}') == "DOCUMENT_AMBIGUOUS"


@pytest.mark.parametrize(
    "data",
    [b"", b"nul", b"[1", b"NaN", b"[Infinity]", b"1e999", b"9" * 100, b"[1] [2]", b"'a'", b'"a\n"'],
)
def test_what_is_no_strict_json_is_refused(data: bytes) -> None:
    assert reason(data) == "DOCUMENT_NO_JSON"


@pytest.mark.parametrize("data", [b'"\xff"', b'"\\ud800"', b'{"\\udc00": 1}'])
def test_text_must_be_unicode(data: bytes) -> None:
    assert reason(data) == "DOCUMENT_NO_UNICODE"


def test_unclosed_text_takes_no_time() -> None:
    assert reason(b'"' + b"\\" * 9_999) == "DOCUMENT_NO_JSON"
