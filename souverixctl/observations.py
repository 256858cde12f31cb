"""What nodes observed: their observations and the large values these name.

Owns the download of large values. Never hands out bytes that do not match their digest.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryFile
from typing import IO

import click

from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverix.fleet.v1 import observation_pb2 as observation
from souverixctl import options, verbs
from souverixctl.describe import field_word
from souverixctl.errors import BadInput, CtlError, NotIntact, Refused
from souverixctl.nodes import fetch_node
from souverixctl.output import Cell
from souverixctl.pages import fetch_pages
from souverixctl.results import age, note_freshness, present
from souverixctl.session import Session, Verbs, pass_session

_DIGEST = re.compile("sha256:[0-9a-f]{64}")
# The largest SBOMs known are some hundred MiB.
MAX_VALUE_BYTES = 1024 * 1024 * 1024
# Streams in a row that bring nothing new.
MAX_BREAKS = 3


@verbs.get.command("observations", short_help="List a node's observations.")
@click.argument("id", metavar="NODE")
@click.option(
    "--type",
    "types",
    multiple=True,
    metavar="TYPE",
    help="Only of this type, such as inventory. Repeatable.",
)
@options.limit_option
@pass_session
def get_observations(session: Session, id: str, types: Sequence[str], limit: int) -> None:
    """List what a node observed, newest first.

    \b
    souverixctl get observations a1-gw-1 --type inventory --limit 5 -o yaml
    """
    request = fleet.ListObservationsRequest(node=id.removeprefix("nodes/"), types=types)
    reply = fetch_pages(session, request, fleet.ListObservationsResponse, "observations", limit)
    now = session.output.now
    rows = [_observation_row(each, now) for each in reply.observations]
    columns = ("ID", "TYPE", "KIND", "OBSERVED", "RECEIVED", "PAYLOAD", "MARKS")
    present(session, reply, lambda: session.output.table(columns, rows, "no observations"))
    note_freshness(session, reply)


def _observation_row(seen: observation.Observation, now: datetime) -> list[Cell]:
    values = [f"{each.name} ({each.size_bytes} bytes)" for each in seen.large_values]
    return [
        seen.id,
        seen.type,
        field_word(seen, "kind"),
        age(seen, "observe_time", now),
        age(seen, "receive_time", now),
        ", ".join([seen.WhichOneof("payload") or "", *values]).strip(", "),
        "replayed" if seen.replayed else "",
    ]


values = Verbs(
    "values",
    help="Large values: package lists, bills of materials, attestations.\n\n"
    "\b\nsouverixctl values download a1-gw-1 --name packages --to packages.json",
)


@values.command("download", short_help="Fetch a large value and verify it.")
@click.argument("source", metavar="DIGEST|NODE")
@click.option(
    "--name",
    metavar="NAME",
    help="Which value of the node, such as packages. Default: the only one.",
)
@click.option("--to", "path", default="-", metavar="FILE", help="Where to write. Default: stdout.")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@pass_session
def download(session: Session, source: str, name: str | None, path: str, force: bool) -> None:
    """Fetch a large value by its digest, or the one a node's inventory names.

    Nothing is written before the whole value matches its digest. Exit code 8: it does not.

    \b
    souverixctl values download a1-gw-1 --name packages --to packages.json
    souverixctl values download sha256:9f86d0… --to sbom.json
    """
    target = None if path == "-" else Path(path)
    if target is not None and target.exists() and not force:
        raise BadInput(f"{path} exists", "give another --to, or --force to replace it")
    digest = source if source.startswith("sha256:") else _digest_at(session, source, name)
    if not _DIGEST.fullmatch(digest):
        raise BadInput(f"{digest!r} is not a digest", "write sha256: and 64 lower-case hex digits")
    with TemporaryFile() as file:
        _fetch_value(session, digest, file)
        file.seek(0)
        if target is None:
            copyfileobj(file, sys.stdout.buffer)
            return
        partial = target.with_name(f".{target.name}.partial")
        try:
            with partial.open("wb") as out:
                copyfileobj(file, out)
            partial.replace(target)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise BadInput(f"cannot write {path}: {error.strerror}") from error
    session.output.note(f"{digest} verified and written to {path}")


def _digest_at(session: Session, id: str, name: str | None) -> str:
    held = fetch_node(session, id).node.inventory.large_values
    found = [each for each in held if name in (None, each.name)]
    if len(found) != 1:
        names = ", ".join(each.name for each in held) or "none"
        raise BadInput(
            f"node {id} names {len(found)} large values{f' called {name}' if name else ''}",
            f"say which with --name; it has: {names}",
        )
    return found[0].digest


def _fetch_value(session: Session, digest: str, file: IO[bytes]) -> None:
    """Write the value to `file`; go on where a broken stream left off. Raises NotIntact."""
    hasher = hashlib.sha256()
    received = 0
    size: int | None = None
    breaks = 0
    with session.output.progress() as progress:
        task = progress.add_task(digest[:19], total=None)
        while size is None or received < size:
            before = received
            try:
                request = fleet.DownloadLargeValueRequest(digest=digest, offset=received)
                for piece in session.connection.stream(request, fleet.DownloadLargeValueResponse):
                    size = piece.size_bytes
                    if piece.offset != received or received + len(piece.data) > size:
                        raise NotIntact(f"{digest}: the pieces do not fit together")
                    if size > MAX_VALUE_BYTES:
                        raise CtlError(
                            f"{digest} has {size} bytes; at most {MAX_VALUE_BYTES} are fetched"
                        )
                    hasher.update(piece.data)
                    file.write(piece.data)
                    received += len(piece.data)
                    progress.update(task, total=size, completed=received)
            except Refused as refused:
                if not refused.elsewhere:
                    raise
            breaks = breaks + 1 if received == before else 0
            if size == 0 or (size is not None and received == size):
                break
            if breaks >= MAX_BREAKS:
                raise CtlError(f"{digest}: the controller ends the download at byte {received}")
    if f"sha256:{hasher.hexdigest()}" != digest:
        raise NotIntact(
            f"what came is not {digest}", "nothing was written; fetch it from another controller"
        )
