"""Documents the operator writes: files, assignments, and input that is not valid."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct

from souverix.policy.v1.policy_pb2 import PolicySpec
from souverixctl.documents import (
    MAX_INPUT_BYTES,
    parse_into,
    read_configuration,
    read_document,
    read_resource,
)
from souverixctl.errors import BadInput


def written(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_assignments_build_a_nested_document() -> None:
    document = read_configuration(None, ["stir.mode=enforce", "stir.level=3", "on=true", "x=a=b"])
    assert document is not None
    assert MessageToDict(document) == {
        "stir": {"mode": "enforce", "level": 3.0},
        "on": True,
        "x": "a=b",
    }


def test_assignments_change_the_present_document_and_keep_the_rest() -> None:
    present = Struct()
    present.update({"stir": {"mode": "observe", "level": 3}})
    document = read_configuration(None, ["stir.mode=enforce"], present)
    assert document is not None
    assert MessageToDict(document) == {"stir": {"mode": "enforce", "level": 3.0}}
    assert MessageToDict(present)["stir"]["mode"] == "observe"


def test_a_file_replaces_the_present_document(tmp_path: Path) -> None:
    present = Struct()
    present.update({"old": 1})
    file = written(tmp_path / "c.yaml", "new: 2026-02-27\n")
    document = read_configuration(file, ["more=1"], present)
    assert document is not None
    assert MessageToDict(document) == {"new": "2026-02-27", "more": 1.0}


def test_without_options_there_is_no_document() -> None:
    assert read_configuration(None, []) is None


@pytest.mark.parametrize("assignment", ["novalue", "=1", " =1", "a=[1", "a.b=1"])
def test_assignments_that_make_no_sense_are_refused(assignment: str) -> None:
    present = Struct()
    present.update({"a": 5})
    with pytest.raises(BadInput):
        read_configuration(None, [assignment], present)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("a: [1", "not valid YAML"),
        ("- 1\n", "no mapping"),
        ("", "no mapping"),
        ("a: 1\na: 2\n", "stands twice"),
        ("1: x\n", "not text"),
        ("a: !!python/object:os.system {}\n", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
    ],
)
def test_files_that_are_no_documents_are_refused(tmp_path: Path, text: str, cause: str) -> None:
    with pytest.raises(BadInput, match=cause):
        read_document(written(tmp_path / "bad.yaml", text))


def test_a_file_that_is_missing_too_large_or_binary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot read"):
        read_document(str(tmp_path / "none.yaml"))
    with pytest.raises(BadInput, match="larger than"):
        read_document(written(tmp_path / "big.yaml", "#" * (MAX_INPUT_BYTES + 1)))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="UTF-8"):
        read_document(str(tmp_path / "binary"))


@pytest.mark.parametrize(
    "text",
    [
        "version: v1\n",
        "spec: {version: v1}\n",
        "policy: {id: p, spec: {version: v1}}\n",
        '{"policy": {"spec": {"version": "v1"}}}',
    ],
)
def test_a_spec_a_resource_and_a_printed_reply_are_all_read(tmp_path: Path, text: str) -> None:
    resource = read_resource(written(tmp_path / "p.yaml", text), "policy")
    assert resource["spec"] == {"version": "v1"}


def test_a_field_the_contract_does_not_know_is_named() -> None:
    with pytest.raises(BadInput, match="verison"):
        parse_into({"verison": "v1"}, PolicySpec(), "p.yaml")
