"""The program itself: help, completion, interruption, and a reader that goes away."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType

import click
import pytest

from souverix.audit.v1 import audit_service_pb2 as audits
from souverixctl.errors import EXIT_CODE_MEANINGS, ExitCode
from souverixctl.main import COMPLETION_VARIABLE, PROGRAM, program
from tests.unit.souverixctl.conftest import Serve
from tests.unit.souverixctl.scripted import ScriptedController, Silence, ctl

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "cli.md"
COMMAND = (sys.executable, "-m", "souverixctl.main")
NO_VARIABLES: MappingProxyType[str, str] = MappingProxyType({})
DEADLINE_S = 60


def real_run(
    *arguments: str, environment: MappingProxyType[str, str] = NO_VARIABLES
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
        env={**os.environ, **environment},
    )


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, command in group.commands.items():
        inner = (*path, name)
        found += leaves(command, inner) if isinstance(command, click.Group) else [inner]
    return found


async def test_help_and_document_list_every_exit_code() -> None:
    ran = await ctl("--help")
    text = DOCUMENT.read_text(encoding="utf-8")
    assert set(EXIT_CODE_MEANINGS) == set(ExitCode)
    for code, meaning in EXIT_CODE_MEANINGS.items():
        assert f"{code.value:<3}  {meaning}" in ran.out
        assert f"| {code.value} | {meaning} |" in text


@pytest.mark.parametrize("path", leaves(program), ids=" ".join)
async def test_every_verb_has_help_and_stands_in_the_document(path: tuple[str, ...]) -> None:
    ran = await ctl(*path, "--help")
    assert ran.exit_code == ExitCode.OK
    assert "Usage: souverixctl" in ran.out
    assert f"`{' '.join(path)}" in DOCUMENT.read_text(encoding="utf-8")


def command_at(path: tuple[str, ...]) -> click.Command:
    command: click.Command = program
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    return command


def examples(command: click.Command) -> list[str]:
    """Lines of a help text that can be typed as they stand, without what the shell does with them."""
    lines = [line.strip() for line in (command.help or "").splitlines()]
    typed = [line for line in lines if line.startswith(f"{PROGRAM} ")]
    return [re.split(r" [|>#] |  +#", line)[0] for line in typed]


@pytest.mark.parametrize("path", [(), *leaves(program)], ids=" ".join)
async def test_every_help_shows_examples_that_the_program_understands(
    path: tuple[str, ...],
) -> None:
    shown = examples(command_at(path))
    assert shown or path in {("completion",), ("version",)}
    for example in shown:
        ran = await ctl(*shlex.split(example)[1:])
        assert ran.exit_code == ExitCode.USAGE, example
        # It ends where its server, its file or an abbreviated id is missing; wrong usage begins otherwise.
        assert ran.err.startswith("error: "), ran.err


@pytest.mark.parametrize("path", leaves(program), ids=" ".join)
def test_every_option_says_what_it_does_and_what_it_takes(path: tuple[str, ...]) -> None:
    options = [each for each in command_at(path).params if isinstance(each, click.Option)]
    for option in options:
        assert option.help, option.name
        if not option.is_flag and not isinstance(option.type, click.Choice):
            assert option.metavar, option.name


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("get",),
        ("bogus",),
        ("get", "nothing"),
        ("get", "nodes", "--what"),
        ("-o", "xml", "version"),
    ],
)
async def test_wrong_usage_is_said_on_stderr(arguments: tuple[str, ...]) -> None:
    ran = await ctl(*arguments)
    assert ran.exit_code == ExitCode.USAGE
    assert ran.out == ""
    assert "Usage: souverixctl" in ran.err


async def test_the_version_is_printed() -> None:
    assert (await ctl("version")).out.startswith("souverixctl ")
    assert '"souverixctl"' in (await ctl("version", "-o", "json")).out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_call_the_program_back(shell: str) -> None:
    ran = real_run("completion", shell)
    assert ran.returncode == ExitCode.OK
    assert COMPLETION_VARIABLE in ran.stdout
    assert PROGRAM in ran.stdout


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("souverixctl fed", {"federation"}),
        ("souverixctl get no", {"node", "nodes"}),
        ("souverixctl get nodes --mode auto", {"autonomous"}),
        ("souverixctl get nodes -o y", {"yaml"}),
    ],
)
def test_bash_completion_offers_what_fits(words: str, offered: set[str]) -> None:
    ran = real_run(
        environment=MappingProxyType(
            {
                COMPLETION_VARIABLE: "bash_complete",
                "COMP_WORDS": words,
                "COMP_CWORD": str(len(words.split()) - 1),
            }
        )
    )
    assert {line.partition(",")[2] for line in ran.stdout.splitlines()} == offered


def test_the_bash_script_is_valid_bash() -> None:
    script = real_run("completion", "bash").stdout
    checked = subprocess.run(
        ["bash", "-n"],
        input=script,
        text=True,
        capture_output=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert checked.returncode == 0, checked.stderr


async def test_an_interrupted_watch_ends_quietly(
    serve: Serve, controller: ScriptedController
) -> None:
    entry = audits.WatchAuditEntriesResponse(entry=audits.AuditEntry(controller="c1"))
    controller.on(audits.WatchAuditEntriesRequest, [entry, Silence()])
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "watch", "audit", "--server", await serve(controller),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    if process.stdout is None or process.stderr is None:
        raise AssertionError("both are pipes")
    try:
        async with asyncio.timeout(DEADLINE_S):
            assert b"c1" in await process.stdout.readline()
            process.send_signal(signal.SIGINT)
            errors = await process.stderr.read()
            assert await process.wait() == ExitCode.INTERRUPTED
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert errors.decode().strip() == "interrupted"


def test_a_reader_that_is_gone_ends_the_run_without_a_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ran = subprocess.run(
            [*COMMAND, "version"],
            stdout=writer,
            stderr=subprocess.PIPE,
            check=False,
            timeout=DEADLINE_S,
        )
    finally:
        os.close(writer)
    assert ran.returncode == ExitCode.FAILED
    assert ran.stderr == b""
