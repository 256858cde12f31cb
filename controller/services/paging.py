"""Pages of lists: sizes and tokens. Owns the form of page tokens; knows no resource.

A token says after which item the next page begins, and is bound to the query by a digest: with any other query it is
refused rather than answered with a page that fits neither.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import nsmallest
from typing import Any, TypeVar

from google.protobuf.message import Message

from federation.errors import InvalidWrite

T = TypeVar("T")

DEFAULT_PAGE_SIZE = 100

#: Larger pages are cut to this: a page of nodes with inventories then stays within a few MiB.
MAX_PAGE_SIZE = 1000

#: Version of the tokens' form; one of another version is refused and the list begun anew.
TOKEN_VERSION = 1

#: Longest token looked at; ours hold a digest and an id, or the dozen places a history goes on from.
MAX_TOKEN_BYTES = 4096

#: Fields of a request that turn over its pages and do not belong to the query.
TURNING_FIELDS = ("page_size", "page_token", "resume_token")


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is asked for."""

    size: int
    #: Sort key of the last item of the page before; empty: the first page.
    after: str
    query: str

    def token(self, last: str) -> str:
        """The token of the page after an item."""
        return encode_token([TOKEN_VERSION, self.query, last])


def page_of(request: Any) -> Page:
    """The page a list request asks for. Raises `InvalidWrite` naming the field."""
    if request.page_size < 0:
        raise InvalidWrite("page_size is negative; leave it out for 100", field="page_size")
    size = min(request.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
    query = query_digest(request)
    if not request.page_token:
        return Page(size, "", query)
    parts = decode_token(request.page_token, "page_token")
    if len(parts) != 3 or parts[0] != TOKEN_VERSION or not isinstance(parts[2], str):
        raise _bad_token("page_token")
    if parts[1] != query:
        raise InvalidWrite(
            "page_token belongs to a query with other fields; begin again without it",
            field="page_token",
        )
    return Page(size, parts[2], query)


def cut(items: Iterable[T], page: Page, sort_key: Callable[[T], str]) -> tuple[list[T], str]:
    """The page's items in order, and the token of the next page (empty: this was the last)."""
    after = page.after
    rest = (item for item in items if sort_key(item) > after) if after else items
    found = nsmallest(page.size + 1, rest, key=sort_key)
    if len(found) <= page.size:
        return found, ""
    return found[:-1], page.token(sort_key(found[-2]))


def query_digest(request: Message, *, scope: bytes = b"") -> str:
    """A digest of all that a query asks for, but for its place in the list."""
    query = type(request)()
    query.CopyFrom(request)
    for name in TURNING_FIELDS:
        if name in query.DESCRIPTOR.fields_by_name:
            query.ClearField(name)
    told = f"{query.DESCRIPTOR.full_name}\0".encode() + scope
    return hashlib.sha256(told + query.SerializeToString(deterministic=True)).hexdigest()[:16]


def encode_token(parts: list[Any]) -> str:
    """An opaque token."""
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


def decode_token(token: str, field: str) -> list[Any]:
    """The parts of a token. Raises `InvalidWrite` for one that was not made here."""
    if len(token) > MAX_TOKEN_BYTES:
        raise _bad_token(field)
    try:
        parts = json.loads(base64.b64decode(token + "=" * (-len(token) % 4), b"-_", validate=True))
    except (binascii.Error, ValueError) as error:
        raise _bad_token(field) from error
    if not isinstance(parts, list):
        raise _bad_token(field)
    return parts


def _bad_token(field: str) -> InvalidWrite:
    return InvalidWrite(
        f"{field} is not one this service made; begin again without it", field=field
    )
