"""Lines for a shell: how files are written in them, and how they are run."""

from __future__ import annotations

import asyncio
from pathlib import Path

from deploy.demo.shell import PROJECT, run, shown


def test_what_lies_in_the_project_is_written_from_there_and_the_rest_in_full() -> None:
    assert shown(PROJECT / "deploy" / "demo") == "deploy/demo"
    assert shown(Path("/srv/a stick")) == "'/srv/a stick'"


def test_a_line_runs_in_the_project_and_tells_how_it_ended() -> None:
    assert asyncio.run(run("ls -d deploy/demo")) == (0, "deploy/demo")
    code, output = asyncio.run(run("echo out of reach >&2; exit 5"))
    assert (code, output) == (5, "out of reach")
