"""Field masks of reads and updates. Owns what a path may be and what it does to a message (AIP-134, AIP-157)."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from federation.errors import InvalidWrite

M = TypeVar("M", bound=Message)

#: Paths in one mask: more than any message here has fields.
MAX_PATHS = 128


def check_mask(mask: FieldMask, message: type[Message], field: str) -> None:
    """Raises `InvalidWrite` for a path that the message does not have."""
    if len(mask.paths) > MAX_PATHS:
        raise InvalidWrite(f"{field} holds more than {MAX_PATHS} paths", field=field)
    for path in mask.paths:
        if path != "*" and not _is_path(path, message):
            known = ", ".join(f.name for f in message.DESCRIPTOR.fields)
            raise InvalidWrite(
                f"{field} names {path[:80]!r}, which is no field; its fields are {known}",
                field=field,
            )


def apply_read_mask(mask: FieldMask, whole: M) -> M:
    """The fields of the message that a checked mask names; all of them when it is empty."""
    if not mask.paths or "*" in mask.paths:
        return whole
    part = type(whole)()
    mask.MergeMessage(whole, part)
    return part


def apply_update_mask(mask: FieldMask, old: M, new: M, field: str = "update_mask") -> M:
    """The old message changed where the mask says: named fields take the new value, or are cleared where it has none.

    "*" replaces all; an empty mask means the fields set in the new one. Raises `InvalidWrite`.
    """
    check_mask(mask, type(new), field)
    if "*" in mask.paths:
        return new
    merged = type(old)()
    merged.CopyFrom(old)
    if mask.paths:
        mask.MergeMessage(new, merged, replace_message_field=True, replace_repeated_field=True)
    else:
        for descriptor, _ in new.ListFields():
            merged.ClearField(descriptor.name)
        merged.MergeFrom(new)
    return merged


def _is_path(path: str, message: type[Message]) -> bool:
    descriptor = message.DESCRIPTOR
    *parents, last = path.split(".")
    for name in parents:
        parent = descriptor.fields_by_name.get(name)
        if parent is None or parent.message_type is None or parent.is_repeated:
            return False
        descriptor = parent.message_type
    return last in descriptor.fields_by_name
