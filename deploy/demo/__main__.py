"""`python -m deploy.demo`: plays the story on this machine. Owns arguments, the directory and the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from deploy.demo.display import Display
from deploy.demo.invitation import invitation, show_invitation, try_all
from deploy.demo.stage import Stage, stage
from deploy.demo.story import play, show_summary, succeeded


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--check", is_flag=True, help="Play, check each step, try every line shown, and end.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory for all data and logs, which is kept. It must be empty or not exist.",
)
def main(check: bool, keep: Path | None) -> None:
    """Play a federation's story on this machine, with real processes on loopback.

    Without --check everything stays up afterwards, until Ctrl-C. Exit codes: 0 when every step went as it must,
    1 when one did not, 130 when interrupted before the end.
    """
    display = Display()
    try:
        with _directory(keep) as directory:
            code = asyncio.run(_run(directory, display, check=check))
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


@contextlib.contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        if keep.exists() and any(keep.iterdir()):
            raise click.BadParameter(f"{keep} is not empty; name a new directory")
        yield keep.resolve()
        return
    directory = Path(tempfile.mkdtemp(prefix="souverix-demo-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _run(directory: Path, display: Display, *, check: bool) -> int:
    interrupted = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted.set)
    display.say(f"data and logs are in {directory}", style="dim")
    async with stage(directory, display) as set_up:
        playing = asyncio.create_task(_play(set_up, check=check))
        stopping = asyncio.create_task(interrupted.wait())
        await asyncio.wait({playing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not playing.done():
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)
            code = 130
        else:
            code = playing.result()
            if not check and code == 0:
                show_invitation(set_up)
                await stopping
        stopping.cancel()
        display.say("stopping", style="dim")
    left = set_up.left_behind()
    if left:
        display.failed(f"processes that did not end: {left}")
        return 1
    return code


async def _play(set_up: Stage, *, check: bool) -> int:
    outcomes = await play(set_up)
    ok = succeeded(outcomes)
    if ok and check:
        ok = await try_all(set_up, invitation(set_up))
    show_summary(set_up, outcomes)
    return 0 if ok else 1


if __name__ == "__main__":
    main()
