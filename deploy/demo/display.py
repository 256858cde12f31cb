"""What the spectator sees: steps, facts, tables, and what is being waited for. Live on a terminal, plain lines
elsewhere. Owns the console; knows nothing of what is shown.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

#: Without a terminal, a wait that changes is said again after this long at the earliest.
PLAIN_INTERVAL_S = 1.0

#: Width of lines where no terminal tells it.
PLAIN_WIDTH = 120

#: Cells of a progress bar.
BAR_CELLS = 24

INDENT = "   "


class Display:
    """The console of the demonstration."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        if not self._console.is_terminal:
            self._console = Console(highlight=False, width=PLAIN_WIDTH, soft_wrap=True)

    def step(self, number: int, title: str, about: str) -> None:
        """A step begins."""
        self._console.print()
        heading = Text(f"{number}  {title}", style="bold cyan")
        if self._console.is_terminal:
            self._console.rule(heading, align="left", style="cyan")
        else:
            self._console.print(Text(f"== {heading.plain}", style="bold"))
        self.say(about, style="dim")

    def say(self, text: str, style: str = "") -> None:
        """A line, or several."""
        for line in text.splitlines():
            self._console.print(Text(INDENT + line, style=style))

    def blank(self) -> None:
        """An empty line."""
        self._console.print()

    def command(self, text: str) -> None:
        """A line to be copied: never folded."""
        self._console.print(Text(INDENT + text, style="green"), soft_wrap=True)

    def happened(self, text: str, took_s: float | None = None) -> None:
        """Something that was waited for, or done, and how long it took."""
        self._marked("✓", "bold green", text, took_s)

    def failed(self, text: str) -> None:
        """What went wrong."""
        first, *rest = text.splitlines()
        self._marked("✗", "bold red", first, None)
        for line in rest:
            self._console.print(Text(f"{INDENT}  {line}", style="red"), soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A small table."""
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(_coloured(cell) for cell in row))
        width = self._console.width - len(INDENT)
        with self._console.capture() as drawn:
            self._console.print(table, width=width)
        for line in drawn.get().splitlines():
            self._console.print(Text(INDENT) + Text.from_ansi(line.rstrip()), soft_wrap=True)

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[LiveLine]:
        """A line that changes while the block runs, and is gone afterwards."""
        if not self._console.is_terminal:
            yield LiveLine(what, self._console, None)
            return
        with Live(console=self._console, transient=True, refresh_per_second=10) as live:
            line = LiveLine(what, self._console, live)
            line.show(what)
            yield line

    def _marked(self, mark: str, style: str, text: str, took_s: float | None) -> None:
        line = Text(INDENT) + Text(mark, style=style) + Text(f" {text}")
        if took_s is not None:
            line.append(f"  {duration(took_s)}", style="dim")
        self._console.print(line)


class LiveLine:
    """One line that says how a wait goes."""

    def __init__(self, what: str, console: Console, live: Live | None) -> None:
        self._what = what
        self._console = console
        self._live = live
        self._began_s = time.monotonic()
        self._said = ""
        self._said_s = self._began_s

    @property
    def elapsed_s(self) -> float:
        """Seconds since the wait began."""
        return time.monotonic() - self._began_s

    def show(self, seen: str, share: float | None = None) -> None:
        """Says what is seen now, and how much of the whole (0 to 1) that is."""
        if self._live is not None:
            text = Text(f"{seen}  ")
            if share is not None:
                text = _bar(share) + Text(" ") + text
            text.append(duration(self.elapsed_s), style="dim")
            self._live.update(Spinner("dots", text=text, style="cyan"))
            return
        now_s = time.monotonic()
        if seen != self._said and now_s - self._said_s >= PLAIN_INTERVAL_S:
            self._said, self._said_s = seen, now_s
            self._console.print(f"{INDENT}… {seen}  {duration(self.elapsed_s)}", markup=False)


def duration(seconds: float) -> str:
    """Seconds for people: "340 ms", "2.1 s"."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _bar(share: float) -> Text:
    full = round(BAR_CELLS * min(1.0, max(0.0, share)))
    return Text("━" * full, style="cyan") + Text("━" * (BAR_CELLS - full), style="dim")


#: Words that say at a glance how something stands.
_STYLES = {
    "LIVE": "green",
    "SUCCEEDED": "green",
    "winner": "green",
    "loser": "yellow",
    "optimistic": "yellow",
    "DISCONNECTED": "red",
    "CATCHING_UP": "yellow",
    "GREETING": "yellow",
    "failed": "bold red",
    "ok": "green",
}


def _coloured(cell: str) -> Text:
    return Text(cell, style=_STYLES.get(cell, ""))
