"""Documents the operator writes: configuration, specs and resources in YAML or JSON.

Owns how files, standard input and KEY=VALUE become messages. Never changes what is not valid into
something that is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from souverixctl.errors import BadInput

# A controller refuses events above 1 MiB; a file larger than this is not one.
MAX_INPUT_BYTES = 4 * 1024 * 1024


def split_assignment(text: str) -> tuple[str, str]:
    """Reads KEY=VALUE. Raises BadInput."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise BadInput(f"{text!r} is not KEY=VALUE", "write it as in stir.mode=enforce")
    return key.strip(), value


def read_configuration(
    config_file: str | None, assignments: Sequence[str], present: Struct | None = None
) -> Struct | None:
    """The document from a file, else the present one, with the assignments made in it.

    None when neither option was given. Raises BadInput.
    """
    if config_file is None and not assignments:
        return None
    struct = Struct()
    if config_file is not None:
        parse_into(read_document(config_file), struct, config_file)
    elif present is not None:
        struct.CopyFrom(present)
    for assignment in assignments:
        key, text = split_assignment(assignment)
        value = _load_yaml(text, f"the value of {key}")
        inner = struct
        *parents, last = key.split(".")
        for parent in parents:
            if parent in inner and inner.fields[parent].WhichOneof("kind") != "struct_value":
                raise BadInput(f"{key}: {parent} holds a value, not a document")
            inner = inner.get_or_create_struct(parent)
        parse_into({last: value}, inner, f"the value of {key}", merge=True)
    return struct


def read_document(path: str) -> dict[str, Any]:
    """The mapping in a YAML or JSON file; "-" reads stdin. Raises BadInput."""
    where = "standard input" if path == "-" else path
    try:
        if path == "-":
            data = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.read(MAX_INPUT_BYTES + 1)
        text = data.decode("utf-8")
    except OSError as error:
        raise BadInput(f"cannot read {where}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{where} is not UTF-8 text: {error.reason} at byte {error.start}"
        ) from error
    if len(data) > MAX_INPUT_BYTES:
        raise BadInput(f"{where} is larger than {MAX_INPUT_BYTES} bytes")
    document = _load_yaml(text, where)
    if not isinstance(document, dict):
        raise BadInput(f"{where} holds no mapping", "write fields as `name: value`, one document")
    return document


def read_resource(path: str, noun: str) -> dict[str, Any]:
    """A resource from a file: a bare spec, a resource with `spec`, or what `get -o yaml` printed."""
    document = read_document(path)
    if set(document) == {noun} and isinstance(document[noun], dict):
        document = document[noun]
    return document if "spec" in document else {"spec": document}


def parse_into(document: Any, message: Message, where: str, *, merge: bool = False) -> None:
    """Fill a message from its JSON form. Raises BadInput naming the field."""
    try:
        if merge and isinstance(message, Struct):
            message.update(document)
        else:
            ParseDict(document, message)
    except (ParseError, ValueError, TypeError) as error:
        raise BadInput(
            f"{where}: {error}", f"the fields are those of {message.DESCRIPTOR.full_name}"
        ) from error


class _Loader(yaml.SafeLoader):
    """YAML as protobuf's JSON mapping wants it: times stay text, and no key is lost to another."""


def _unique_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    mapping: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} is not text: put it in quotes", key_node.start_mark
            )
        if key in mapping:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} stands twice", key_node.start_mark
            )
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _load_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - derived from the safe loader
    except (yaml.YAMLError, RecursionError) as error:
        raise BadInput(f"{where} is not valid YAML: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
