"""What the operator sees: tables, JSON, YAML, notes and progress.

Owns the two consoles. Data goes to stdout; notes, progress and errors go to stderr. Never colours
what is not a terminal, and never lets text from the fleet act on the terminal.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TextIO

import yaml
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from souverixctl.errors import CtlError, Refused
from souverixctl.times import NOTHING

# Results are never cut or folded: a terminal wraps long lines itself, and ids stay whole.
RESULT_WIDTH = 100_000
# Control characters that JSON does not escape by itself: they could act on a terminal.
_ACTING = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

Cell = str | Text


class Format(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def clean(text: str) -> str:
    """The text with every character that is not printable written out, such as `\\x1b`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def styled(text: str, style: str = "") -> Text:
    """A cell: text made harmless, in a style."""
    return Text(clean(text) or NOTHING, style=style)


def as_document(message: Message) -> dict[str, Any]:
    """The message in protobuf's JSON mapping."""
    document: dict[str, Any] = MessageToDict(message)
    return document


class Output:
    """Prints results in one format, and says the rest on stderr."""

    def __init__(self, format: Format, *, color: bool = True) -> None:
        self.format = format
        wanted = color and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self.stdout = _console(sys.stdout, wanted, RESULT_WIDTH)
        self.stderr = _console(sys.stderr, wanted, None)
        self._printed_documents = 0

    @property
    def is_table(self) -> bool:
        """True when results are for people."""
        return self.format is Format.TABLE

    @property
    def now(self) -> datetime:
        """The present time, for ages."""
        return datetime.now(UTC)

    def document(self, value: Mapping[str, Any]) -> None:
        """One JSON or YAML document, whole."""
        if self.format is Format.YAML:
            text = yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True).rstrip("\n")
        else:
            text = _escape(json.dumps(value, indent=2, ensure_ascii=False))
        self._write(text)

    def message(self, message: Message) -> None:
        """One message as a JSON or YAML document."""
        self.document(as_document(message))

    def step(self, message: Message) -> None:
        """One of many messages: a line of JSON, or one YAML document of several."""
        if self.format is Format.YAML:
            if self._printed_documents:
                self._write("---")
            self.message(message)
        else:
            self._write(_escape(json.dumps(as_document(message), ensure_ascii=False)))
        self._printed_documents += 1

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]], empty: str) -> None:
        """A table; with no rows, `empty` is said instead (on stderr)."""
        if not rows:
            self.note(empty)
            return
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for column in columns:
            table.add_column(column, no_wrap=True)
        for row in rows:
            table.add_row(*(cell if isinstance(cell, Text) else styled(cell) for cell in row))
        self.show(table)

    def show(self, renderable: RenderableType) -> None:
        """Something rich can draw, such as a tree."""
        with self.stdout.capture() as drawn:
            self.stdout.print(renderable)
        self._write("\n".join(line.rstrip() for line in drawn.get().splitlines()))

    def line(self, *parts: Cell) -> None:
        """One line of a list that grows, parts separated by two spaces; without parts an empty one."""
        cells = [part if isinstance(part, Text) else styled(part) for part in parts]
        self.stdout.print(Text("  ").join(cells), soft_wrap=True)
        self.stdout.file.flush()

    def note(self, text: str, style: str = "dim") -> None:
        """Something for people, on stderr."""
        self.stderr.print(Text(clean(text), style=style), soft_wrap=True)

    def warn(self, text: str) -> None:
        """Something people must not overlook, on stderr."""
        self.note(f"note: {text}", "yellow")

    def error(self, error: CtlError) -> None:
        """What went wrong, the facts, and the next step, on stderr."""
        if isinstance(error, Refused):
            self.note(f"error: {error.code.name}: {error.message}", "bold red")
            if error.reason:
                self.note(f"  reason: {error.reason}", "red")
            for key, value in sorted(error.metadata.items()):
                self.note(f"  {key}: {value}", "red")
            for violation in error.violations:
                self.note(f"  {violation}", "red")
            if error.retry_after_s is not None:
                self.note(f"  retry after: {error.retry_after_s:g}s", "red")
            self.note(f"  from: {error.address} {error.method}")
        else:
            self.note(f"error: {error.message}", "bold red")
        if error.next_step:
            self.note(f"next step: {error.next_step}", "")

    def progress(self) -> Progress:
        """A bar on stderr while it is a terminal; invisible otherwise."""
        return Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=self.stderr,
            transient=True,
            disable=not self.stderr.is_terminal,
        )

    def busy(self, text: str) -> AbstractContextManager[object]:
        """A sign of life on stderr for a wait without measure; invisible when it is no terminal."""
        progress = Progress(
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=self.stderr,
            transient=True,
            disable=not self.stderr.is_terminal,
        )
        progress.add_task(clean(text), total=None)
        return progress

    def _write(self, text: str) -> None:
        self.stdout.file.write(f"{text}\n")
        self.stdout.file.flush()


def _escape(text: str) -> str:
    return _ACTING.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def _console(stream: TextIO, color: bool, width: int | None) -> Console:
    terminal = stream.isatty()
    return Console(
        file=stream,
        force_terminal=terminal,
        color_system="auto" if terminal and color else None,
        no_color=not color,
        width=width,
        markup=False,
        highlight=False,
        emoji=False,
    )
