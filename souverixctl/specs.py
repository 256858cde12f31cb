"""Specs of nodes and domains as operators give them: by flags, or whole in a file.

Owns which fields of a spec an invocation names, and the change of a spec that follows. Never changes a field that was
not named.
"""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from souverixctl import options
from souverixctl.describe import enum_word
from souverixctl.documents import parse_into, read_resource, split_assignment
from souverixctl.errors import BadInput
from souverixctl.results import present_write
from souverixctl.session import Session

Spec = TypeVar("Spec", bound=Message)


def spec_from_flags(spec_type: type[Spec], given: dict[str, Any]) -> tuple[Spec, list[str]]:
    """The spec the flags say, and the fields they named: flags are called as the fields. Raises BadInput."""
    fields = spec_type.DESCRIPTOR.fields_by_name
    named = [name for name in fields if given.get(name) not in (None, ())]
    values = {name: given[name] for name in named}
    if "kind" in values:
        kinds: Any = fields["kind"].enum_type
        values["kind"] = next(
            number for number in kinds.values_by_number if enum_word(kinds, number) == given["kind"]
        )
    if "labels" in values:
        values["labels"] = dict(split_assignment(each) for each in values["labels"])
    return spec_type(**values), named


def change_spec(
    session: Session,
    noun: str,
    id: str,
    request_type: type[Any],
    reply_type: type[Any],
    file: str | None,
    given: dict[str, Any],
) -> None:
    """Changes the spec of a "node" or "domain": flags change the fields they name, a file all. Raises BadInput,
    Refused.
    """
    write, etag = options.read_write_options(given), given.pop("etag")
    spec, named = spec_from_flags(type(request_type().spec), given)
    if bool(file) == bool(named):
        raise BadInput(
            "nothing to change" if not file else "a file and flags are given", "give one"
        )
    if file:
        resource = read_resource(file, noun)
        parse_into(resource["spec"], spec, file)
        named, etag = ["*"], etag or resource.get("etag", "")
    request = request_type(
        name=options.resource_name(f"{noun}s", id),
        spec=spec,
        update_mask=FieldMask(paths=named),
        etag=etag,
        **write.fields(),
    )
    reply = session.connection.call(request, reply_type)
    changed = getattr(reply, noun)
    present_write(session, reply, f"{noun} {changed.id} changed", changed.etag)
