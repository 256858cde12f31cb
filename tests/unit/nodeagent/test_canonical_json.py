from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.canonical_json import Json, canonical_json, document_of, sha256_digest, struct_of


@pytest.mark.parametrize(
    ("number", "spelled"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1"),
        (-1.5, "-1.5"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (123456789012345680000.0, "123456789012345680000"),
        (1e-6, "0.000001"),
        (1e-7, "1e-7"),
        (1.5e-9, "1.5e-9"),
        (5e-324, "5e-324"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (333333333.33333329, "333333333.3333333"),
        (9007199254740991, "9007199254740991"),
    ],
)
def test_numbers_are_spelled_as_ecmascript_does(number: float, spelled: str) -> None:
    assert canonical_json(number) == spelled.encode()


def test_names_are_sorted_by_utf16_and_strings_escaped_as_little_as_possible() -> None:
    document: Json = {"\U0001f600": 1, "\ufb33": 2, "b": '\u20ac\n\x0f"\\/', "a": [True, None]}
    expected = '{"a":[true,null],"b":"€\\n\\u000f\\"\\\\/","\U0001f600":1,"\ufb33":2}'
    assert canonical_json(document) == expected.encode()


@pytest.mark.parametrize("document", [float("nan"), float("inf"), 2**53, "\ud800"])
def test_what_has_no_spelling_is_refused(document: Json) -> None:
    with pytest.raises(ValueError, match=r"finite|double|surrogates"):
        canonical_json(document)


def test_digests_are_spelled_as_the_contract_says() -> None:
    empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert sha256_digest(b"") == empty


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none()
            | st.booleans()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
            ),
            max_leaves=8,
        ),
        max_size=4,
    )
)
def test_any_document_reads_back_and_survives_a_struct(document: dict[str, Json]) -> None:
    spelled = canonical_json(document)
    assert json.loads(spelled, parse_int=float) == document
    assert canonical_json(document_of(struct_of(document), max_depth=20)) == spelled
