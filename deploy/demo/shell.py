"""Lines for a shell, as a spectator types them from the project's directory: how programs and files are written there,
and how a line is run. Owns nothing that the lines do.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from pathlib import Path

from deploy.demo.stage import WAIT_S, Stage, administrator, expect
from trust.identity import Kind

#: Where the project is: lines are shown as they are typed from there.
PROJECT = Path(__file__).resolve().parent.parent.parent


def shown(path: Path) -> str:
    """A program or a file as it is typed from the project's directory."""
    return shlex.quote(str(path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path))


def program(name: str) -> str:
    """A program of the project."""
    return shown(Path(sys.executable).parent / name)


def certificate(stage: Stage, domain: str) -> Path:
    """Where who administers a domain has its certificate."""
    user = administrator(domain).removeprefix("user:")
    return stage.federation.certificates.leaf(domain, Kind.USER, user)


def souverixctl(stage: Stage, domain: str) -> str:
    """The beginning of a line by which who administers a domain asks its controller."""
    tls = shown(certificate(stage, domain))
    return f"{program('souverixctl')} --server {stage.federation.server(domain)} --tls {tls}"


async def run(text: str) -> tuple[int, str]:
    """Runs a line; its exit code, and all it says."""
    process = await asyncio.create_subprocess_shell(
        text,
        cwd=PROJECT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "NO_COLOR": "1"},
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), WAIT_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        return 1, f"not done within {WAIT_S:g} s"
    return process.returncode or 0, output.decode(errors="replace").strip()


async def play_line(stage: Stage, text: str, *, quiet: bool = False, code: int = 0) -> str:
    """Runs a line, which must end with `code`; what it says. Shows both, unless `quiet`. Raises `StepFailed`."""
    if not quiet:
        stage.display.command(text)
    with stage.display.waiting(text.partition(" --tls ")[0]):
        ended, output = await run(text)
    expect(ended == code, f"{text}\nexit code {ended}, not {code}: {output[-600:]}")
    if not quiet:
        stage.display.say(output, style="yellow" if code else "dim")
    return output
