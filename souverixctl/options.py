"""Options that several verbs share.

Owns their names, their help and the request id of an invocation. Never calls a controller.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import click

from souverixctl.errors import BadInput

Function = TypeVar("Function", bound=Callable[..., Any])

DEFAULT_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How a write is made."""

    request_id: str
    durable_at: str
    validate_only: bool

    def fields(self) -> dict[str, Any]:
        """The fields every request that writes has."""
        return asdict(self)


def write_options(function: Function) -> Function:
    """Adds --request-id, --wait-durable and --validate-only; read them with `read_write_options`."""
    for decorate in (
        click.option(
            "--request-id",
            metavar="ID",
            help="Idempotency key, to repeat a write whose outcome is not known. Default: a new one.",
        ),
        click.option(
            "--wait-durable",
            metavar="DOMAIN",
            default="",
            help="Wait until the write is durable at this domain, such as global. Default: only where it is made.",
        ),
        click.option("--validate-only", is_flag=True, help="Check everything, write nothing."),
    ):
        function = decorate(function)
    return function


def read_write_options(given: dict[str, Any]) -> WriteOptions:
    """Takes the write options out of a verb's keyword arguments."""
    return WriteOptions(
        request_id=given.pop("request_id") or new_request_id(),
        durable_at=given.pop("wait_durable"),
        validate_only=given.pop("validate_only"),
    )


def new_request_id() -> str:
    """An idempotency key for one invocation; its retries share it."""
    return uuid.uuid4().hex


def etag_option(function: Function) -> Function:
    """Adds --etag."""
    return click.option(
        "--etag",
        metavar="ETAG",
        default="",
        help="Write only if it still has this etag (see `get … -o yaml`); else exit code 4.",
    )(function)


def reason_option(function: Function) -> Function:
    """Adds --reason, of a write that needs none."""
    return click.option(
        "--reason", default="", metavar="TEXT", help="Why, for people and the audit."
    )(function)


def own_tags_option(function: Function) -> Function:
    """Adds --tag, of what is declared."""
    return click.option(
        "--tag",
        "tags",
        multiple=True,
        metavar="TAG",
        help="A tag, to be chosen by. Repeatable; those given are all it has.",
    )(function)


def own_labels_option(function: Function) -> Function:
    """Adds --label, of what is declared."""
    return click.option(
        "--label",
        "labels",
        multiple=True,
        metavar="KEY=VALUE",
        help="A label. Repeatable; those given are all it has.",
    )(function)


def with_tags_option(function: Function) -> Function:
    """Adds --tag, of what is listed."""
    return click.option(
        "--tag",
        "tags",
        multiple=True,
        metavar="TAG",
        help="Only with this tag. Repeatable: all of them.",
    )(function)


def scope_options(function: Function) -> Function:
    """Adds --domain and --subtree."""
    function = click.option("--subtree", is_flag=True, help="The domains below it too.")(function)
    return click.option("--domain", default="", metavar="DOMAIN", help="Only this domain.")(
        function
    )


def limit_option(function: Function) -> Function:
    """Adds --limit, for `pages.fetch_pages`."""
    return click.option(
        "--limit",
        type=click.IntRange(min=0),
        metavar="N",
        default=DEFAULT_LIMIT,
        show_default=True,
        help="Most entries to fetch; 0 for all.",
    )(function)


def file_option(help: str) -> Callable[[Function], Function]:
    """Adds -f/--file."""

    def decorate(function: Function) -> Function:
        return click.option("-f", "--file", "file", metavar="FILE", help=help)(function)

    return decorate


def config_options(function: Function) -> Function:
    """Adds --config-file and --config, for `documents.read_configuration`."""
    function = click.option(
        "--config",
        "assignments",
        multiple=True,
        metavar="KEY=VALUE",
        help="One field of the document; the key is a dotted path, the value is read as YAML. Repeatable.",
    )(function)
    return click.option(
        "--config-file",
        metavar="FILE",
        help="The configuration document, YAML or JSON; - is stdin.",
    )(function)


def resource_name(collection: str, id: str) -> str:
    """ "nodes/n1" from "n1" or from "nodes/n1"."""
    return id if id.startswith(f"{collection}/") else f"{collection}/{id}"


def as_of_option(function: Function) -> Function:
    """Adds --as-of."""
    return click.option(
        "--as-of",
        default="",
        metavar="TIME",
        help="As the controller knew it then: 2026-02-27T03:45:00Z, or a DURATION ago.",
    )(function)


def scoped_name(collection: str, text: str, shown_by: str = "") -> tuple[str, str]:
    """Domain and id of "DOMAIN/ID" or "domains/DOMAIN/COLLECTION/ID". `shown_by` is the verb that lists them where
    it is not `get`. Raises BadInput.
    """
    parts = text.split("/")
    if len(parts) == 4 and (parts[0], parts[2]) == ("domains", collection):
        parts = [parts[1], parts[3]]
    if len(parts) != 2 or not all(parts):
        raise BadInput(
            f"{text!r} names none of the {collection}",
            f"write DOMAIN/ID, as `{shown_by or f'get {collection}'}` shows it",
        )
    return parts[0], parts[1]


def scoped_resource_name(collection: str, text: str, shown_by: str = "") -> str:
    """ "domains/d1/policies/p1" from "d1/p1", as `scoped_name` reads it. Raises BadInput."""
    domain, id = scoped_name(collection, text, shown_by)
    return f"domains/{domain}/{collection}/{id}"
