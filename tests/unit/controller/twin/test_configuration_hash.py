from __future__ import annotations

import hashlib

import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from controller.twin.configuration_hash import MAX_DEPTH, MAX_REMEMBERED_BYTES, configuration_hash
from federation.errors import InvalidWrite
from nodeagent.canonical_json import canonical_json, document_of, sha256_digest

scalars = (
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
documents = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.text(st.characters(exclude_categories=["Cs"]), max_size=3), inner, max_size=3
            )
        ),
        max_leaves=8,
    ),
    max_size=4,
)


def struct(document: dict[str, object]) -> Struct:
    made = Struct()
    made.update(document)  # type: ignore[arg-type]
    return made


@pytest.mark.parametrize(
    ("document", "spelled"),
    [
        ({}, "{}"),
        ({"b": 1, "a": [True, None, "x\n\u00fc"]}, '{"a":[true,null,"x\\n\u00fc"],"b":1}'),
        (
            {"n": [0.0, -0.5, 1e21, 1e-7, 123456789012, 1.5e300]},
            '{"n":[0,-0.5,1e+21,1e-7,123456789012,1.5e+300]}',
        ),
    ],
)
def test_document_is_hashed_in_its_canonical_spelling(
    document: dict[str, object], spelled: str
) -> None:
    expected = "sha256:" + hashlib.sha256(spelled.encode()).hexdigest()

    assert configuration_hash(struct(document)) == expected


@given(documents)
def test_controller_and_agent_give_one_document_one_hash(document: dict[str, object]) -> None:
    made = struct(document)

    theirs = sha256_digest(canonical_json(document_of(made, MAX_DEPTH)))

    assert configuration_hash(made) == theirs


def test_document_that_no_json_stands_for_is_refused() -> None:
    endless: dict[str, object] = {}
    for _ in range(MAX_DEPTH):
        endless = {"a": endless}
    empty = Struct()
    empty.fields["a"].SetInParent()
    for made in (struct(endless), struct({"a": float("nan")}), empty):
        with pytest.raises(InvalidWrite):
            configuration_hash(made)


def test_large_and_repeated_documents_are_hashed_as_all_others() -> None:
    for size in (1, MAX_REMEMBERED_BYTES):
        made = struct({"a": "x" * size})
        spelled = '{"a":"' + "x" * size + '"}'
        expected = "sha256:" + hashlib.sha256(spelled.encode()).hexdigest()
        assert [configuration_hash(made), configuration_hash(made)] == [expected, expected]
