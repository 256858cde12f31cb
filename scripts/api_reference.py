"""Writes the reference of the contract, `docs/api/`, from the comments in `proto/souverix/`.

Owns the form of these pages; what they say stands in the protos alone. One page a package: services first, then
messages and enums in the order of the files.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc_tools
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
OUTPUT = ROOT / "docs" / "api"

COMPILE_LIMIT_S = 120.0
"""The contract compiles in a second; beyond this the compiler hangs."""

# Field numbers of descriptor.proto, of which the paths of comments are made.
FILE_MESSAGE, FILE_ENUM, FILE_SERVICE = 4, 5, 6
MESSAGE_FIELD, MESSAGE_NESTED, MESSAGE_ENUM = 2, 3, 4
ENUM_VALUE = 2
SERVICE_METHOD = 2

_PREFIX = "souverix."
_SCALARS = {
    number: name.removeprefix("TYPE_").lower()
    for name, number in FieldDescriptorProto.Type.items()
    if name not in ("TYPE_MESSAGE", "TYPE_ENUM", "TYPE_GROUP")
}

Path_ = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Contract:
    """All files, with what readers need to find in them."""

    files: Sequence[FileDescriptorProto]
    #: full name with leading dot -> package, for links; types of other projects are not in it.
    package_of: Mapping[str, str]


class Comments:
    """The comments of one file, by the path of what they stand before."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._texts = {
            tuple(location.path): _plain(" ".join(location.leading_comments.split()))
            for location in file.source_code_info.location
        }

    def __getitem__(self, path: Path_) -> str:
        return self._texts.get(path, "")


def compile_contract() -> Contract:
    """The contract with its comments. Raises `CalledProcessError` when it does not compile."""
    sources = sorted(str(path.relative_to(PROTO)) for path in (PROTO / "souverix").rglob("*.proto"))
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "contract.binpb"
        command = [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--proto_path={PROTO}",
            f"--proto_path={Path(grpc_tools.__file__).parent / '_proto'}",
            "--include_source_info",
            f"--descriptor_set_out={target}",
            *sources,
        ]
        # Without the working directory on the path, a package of ours never shadows the compiler's.
        environment = {**os.environ, "PYTHONSAFEPATH": "1"}
        subprocess.run(command, check=True, timeout=COMPILE_LIMIT_S, env=environment)
        files = FileDescriptorSet.FromString(target.read_bytes()).file
    package_of = {
        f".{file.package}.{name}": file.package
        for file in files
        for name in _type_names(file.message_type, file.enum_type)
    }
    return Contract(list(files), package_of)


def _type_names(
    messages: Sequence[DescriptorProto], enums: Sequence[EnumDescriptorProto], within: str = ""
) -> Iterator[str]:
    for enum in enums:
        yield within + enum.name
    for message in messages:
        yield within + message.name
        yield from _type_names(message.nested_type, message.enum_type, f"{within}{message.name}.")


def pages(contract: Contract) -> dict[str, str]:
    """All pages: file name -> text."""
    packages = sorted({file.package for file in contract.files})
    result = {"README.md": _index(contract, packages)}
    for package in packages:
        result[_page_of(package)] = "\n".join(_package_page(contract, package))
    return result


def _page_of(package: str) -> str:
    return f"{package.removeprefix(_PREFIX)}.md"


def _index(contract: Contract, packages: Sequence[str]) -> str:
    lines = [
        "# API reference",
        "",
        "Written by `make docs` from the comments in `proto/souverix/`; change those, not this. Fields of other",
        "projects' types (`google.protobuf.…`) are described there.",
        "",
        "| package | services |",
        "|---|---|",
    ]
    for package in packages:
        services = [s.name for f in contract.files if f.package == package for s in f.service]
        names = ", ".join(f"[{name}]({_page_of(package)}#{name.lower()})" for name in services)
        lines.append(f"| [`{package}`]({_page_of(package)}) | {names} |")
    return "\n".join([*lines, ""])


def _package_page(contract: Contract, package: str) -> Iterator[str]:
    files = [file for file in contract.files if file.package == package]
    yield f"# {package}"
    yield ""
    yield "Written by `make docs` from the comments in `proto/`; change those, not this. [All packages](README.md)"
    for file in files:
        comments = Comments(file)
        for at, service in enumerate(file.service):
            yield from _service(contract, package, service, comments, (FILE_SERVICE, at))
    for file in files:
        comments = Comments(file)
        for at, message in enumerate(file.message_type):
            yield from _message(contract, package, message, comments, (FILE_MESSAGE, at), "")
        for at, enum in enumerate(file.enum_type):
            yield from _enum(enum, comments, (FILE_ENUM, at), "")
    yield ""


def _service(
    contract: Contract,
    package: str,
    service: ServiceDescriptorProto,
    comments: Comments,
    path: Path_,
) -> Iterator[str]:
    yield from ["", f"## {service.name}", "", comments[path], ""]
    yield from ["| method | takes | gives | |", "|---|---|---|---|"]
    for at, method in enumerate(service.method):
        takes = _link(contract, package, method.input_type)
        gives = _link(contract, package, method.output_type)
        streams = ("stream of " * method.client_streaming, "stream of " * method.server_streaming)
        about = _cell(comments[(*path, SERVICE_METHOD, at)])
        yield f"| `{method.name}` | {streams[0]}{takes} | {streams[1]}{gives} | {about} |"


def _message(
    contract: Contract,
    package: str,
    message: DescriptorProto,
    comments: Comments,
    path: Path_,
    within: str,
) -> Iterator[str]:
    name = within + message.name
    yield from ["", f"### {name}", "", comments[path]]
    entries = {n.name: n for n in message.nested_type if n.options.map_entry}
    if message.field:
        yield from ["", "| field | type | |", "|---|---|---|"]
    for at, field in enumerate(message.field):
        kind = _type(contract, package, field, entries)
        about = _cell(comments[(*path, MESSAGE_FIELD, at)])
        if field.HasField("oneof_index") and not field.proto3_optional:
            about = f"One of `{message.oneof_decl[field.oneof_index].name}`. {about}"
        yield f"| `{field.name}` = {field.number} | {kind} | {about} |"
    for at, nested in enumerate(message.nested_type):
        if nested.name not in entries:
            inner = (*path, MESSAGE_NESTED, at)
            yield from _message(contract, package, nested, comments, inner, f"{name}.")
    for at, enum in enumerate(message.enum_type):
        yield from _enum(enum, comments, (*path, MESSAGE_ENUM, at), f"{name}.")


def _enum(enum: EnumDescriptorProto, comments: Comments, path: Path_, within: str) -> Iterator[str]:
    yield from ["", f"### {within}{enum.name}", "", comments[path], ""]
    yield from ["| value | |", "|---|---|"]
    for at, value in enumerate(enum.value):
        about = _cell(comments[(*path, ENUM_VALUE, at)])
        yield f"| `{value.name}` = {value.number} | {about} |"


def _type(
    contract: Contract,
    package: str,
    field: FieldDescriptorProto,
    entries: Mapping[str, DescriptorProto],
) -> str:
    entry = entries.get(field.type_name.rpartition(".")[2])
    if entry is not None:
        key, value = (_type(contract, package, part, {}) for part in entry.field)
        return f"map of {key} to {value}"
    named = field.type_name
    kind = _link(contract, package, named) if named else f"`{_SCALARS[field.type]}`"
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {kind}"
    return f"optional {kind}" if field.proto3_optional else kind


def _link(contract: Contract, package: str, type_name: str) -> str:
    held_by = contract.package_of.get(type_name)
    if held_by is None:
        return f"`{type_name[1:]}`"
    name = type_name.removeprefix(f".{held_by}.")
    shown = name if held_by == package else f"{held_by.removeprefix(_PREFIX)}.{name}"
    page = "" if held_by == package else _page_of(held_by)
    return f"[{shown}]({page}#{name.lower().replace('.', '')})"


def _plain(text: str) -> str:
    """Text that Markdown shows as it stands; what is in backticks is code already."""
    parts = text.split("`")
    return "`".join(
        part if at % 2 else re.sub(r"([\\\[\]<*])", r"\\\1", part) for at, part in enumerate(parts)
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    """Writes all pages, and removes what no longer has a package."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    written = pages(compile_contract())
    for name, text in written.items():
        (OUTPUT / name).write_text(text)
    for path in OUTPUT.glob("*.md"):
        if path.name not in written:
            path.unlink()
    print(f"{OUTPUT.relative_to(ROOT)}: {len(written)} pages")


if __name__ == "__main__":
    main()
