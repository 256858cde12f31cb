"""The documentation tells the truth: generated pages are up to date, tables of reasons and log lines match the code,
commands and links lead somewhere, configurations load.
"""

from __future__ import annotations

import ast
import functools
import re
import shlex
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest
from google.protobuf.descriptor import FileDescriptor

import controller.main
import nodeagent.main
import souverixctl.main
from controller.command import delivery
from controller.config_file import load_config
from scripts import api_reference, diagrams
from trust.errors import Reason, TokenReason

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
OPERATING = DOCS / "operating.md"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
GENERATED = sorted((DOCS / "api").glob("*.md"))
WRITTEN = [page for page in PAGES if page not in GENERATED]
CONFIGURATIONS = sorted((ROOT / "deploy").glob("*.toml"))
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
PROGRAMS: dict[str, click.Command] = {
    "souverix-controller": controller.main.main,
    "souverix-node": nodeagent.main.main,
    "souverixctl": souverixctl.main.program,
}
#: What the fences of shell sessions are called.
SHELL = ("sh", "shell", "bash", "console")


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


# Generated pages.


def test_api_reference_is_up_to_date() -> None:
    assert {page.name: page.read_text() for page in GENERATED} == api_reference.pages(
        api_reference.compile_contract()
    )


def test_state_machines_are_drawn_as_they_move() -> None:
    assert diagrams.OUTPUT.read_text() == diagrams.page(diagrams.machines())


def test_every_transition_table_is_drawn() -> None:
    tables = {
        str(path.relative_to(ROOT))
        for path in source_files("controller", "federation", "nodeagent")
        if re.search(r"^TRANSITIONS\b", path.read_text(), re.MULTILINE)
    }
    assert tables == {machine.module for machine in diagrams.machines()}


# Configurations and units.


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=named)
def test_example_configuration_loads(path: Path) -> None:
    config = load_config(path)
    assert config.controller.id == f"{config.controller.domain}-control"


def test_example_configurations_fit_together() -> None:
    configs = {c.controller.id: c for c in map(load_config, CONFIGURATIONS)}
    for config in configs.values():
        assert config.trust.root_public_key == configs["global-control"].trust.root_public_key
        if config.parent is not None:
            parent = configs[config.parent.controller]
            assert config.parent.addresses[0] == parent.listen.address
            declared = {child.controller: child.domain for child in parent.children}
            assert declared[config.controller.id] == config.controller.domain


def test_each_authority_level_has_an_example() -> None:
    configs = [load_config(path) for path in CONFIGURATIONS]
    levels = {child.level for config in configs for child in config.children}
    assert levels == {"regional", "local", "autonomous"}
    assert sum(config.parent is None for config in configs) == 1


@pytest.mark.parametrize("path", UNITS, ids=named)
def test_unit_starts_programs_with_options_they_have(path: Path) -> None:
    lines = re.findall(r"^ExecStart(?:Pre)?=(.*)$", path.read_text(), re.MULTILINE)
    assert lines
    for line in lines:
        program, *arguments = shlex.split(line.rstrip("\\"))
        command = PROGRAMS.get(Path(program).name)
        assert command is None or misused(command, arguments) is None, line


# Reasons and log lines.


def source_files(*packages: str) -> Iterator[Path]:
    for package in packages:
        yield from sorted((ROOT / package).rglob("*.py"))


@functools.cache
def syntax_trees() -> list[ast.Module]:
    return [ast.parse(path.read_text()) for path in source_files("controller", "federation")]


def nodes() -> Iterator[ast.AST]:
    for tree in syntax_trees():
        yield from ast.walk(tree)


def calls(*functions: str) -> Iterator[ast.Call]:
    for node in nodes():
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in functions:
            yield node


def text_of(call: ast.Call, position: int, name: str) -> str | None:
    """A literal argument; None where a variable is passed on."""
    given = [k.value for k in call.keywords if k.arg == name]
    if not given and len(call.args) > position:
        given = [call.args[position]]
    constant = given[0] if given else None
    if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
        return constant.value
    return None


def reasons_of_error_classes() -> set[str]:
    found = set()
    for node in nodes():
        if not isinstance(node, ast.ClassDef):
            continue
        for statement in node.body:
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "reason":
                found.add(ast.literal_eval(statement.value))
    return found


def reasons_of_errors() -> set[str]:
    direct = {
        text_of(call, 1, "reason") for call in calls("ServiceError", "BearerRefused", "_status")
    }
    direct |= {reason.value for reason in (*Reason, *TokenReason)}
    return reasons_of_error_classes() | {reason for reason in direct if reason}


def reasons_of_verdicts() -> set[str]:
    found = {text_of(call, 1, "reason") for call in calls("Verdict")}
    found |= {text_of(call, 2, "reason") for call in calls("Judgement")}
    return {reason for reason in found if reason} | named_reasons()


def named_reasons() -> set[str]:
    """Constants of the core that are called what they say: reasons that more than one module knows."""
    found = set()
    for path in source_files("federation"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                name = ast.unparse(node.targets[0])
                if node.value.value == name:
                    found.add(name)
    return found


def section(page: Path, heading: str) -> str:
    """The text below a heading, down to the next of its rank or above."""
    rank = heading.split(" ", 1)[0]
    _, found, below = page.read_text().partition(f"\n{heading}\n")
    assert found, f"{named(page)} has no section {heading!r}"
    return re.split(rf"^#{{1,{len(rank)}}} ", below, maxsplit=1, flags=re.MULTILINE)[0]


def first_cells(text: str) -> list[str]:
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


def test_every_reason_of_an_error_is_explained() -> None:
    explained = first_cells(section(OPERATING, "### Errors by reason"))
    assert sorted(explained) == sorted(reasons_of_errors())


def test_every_verdict_on_a_run_is_explained() -> None:
    table = section(DOCS / "protocol.md", "## Receipt and effect")
    explained = set(re.findall(r"^\| [A-Z]+ \| `([A-Z_]+)` \|", table, re.MULTILINE))
    assert explained == reasons_of_verdicts()


def test_every_reason_of_a_delivery_is_explained() -> None:
    edges = {edge.reason for edge in delivery.TRANSITIONS.values()} - {""}
    assert edges <= set(first_cells(section(OPERATING, "### Deliveries by reason")))


def log_messages() -> set[str]:
    """What the controller writes to its log, with "…" for the values put into it."""
    found = set()
    for call in calls("info", "warning", "error", "exception"):
        if ast.unparse(call.func).startswith("_log."):
            text = text_of(call, 0, "msg")
            assert text is not None, ast.unparse(call)
            found.add(re.sub(r"%\w", "…", text))
    return found


def test_every_log_line_is_explained() -> None:
    explained = first_cells(section(OPERATING, "## Log lines"))
    assert sorted(explained) == sorted(log_messages())


# Links and commands.


def anchor_of(heading: str) -> str:
    """A heading's anchor, as renderers of Markdown make it."""
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip().lower())
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


@functools.cache
def anchors_of(page: Path) -> frozenset[str]:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    return frozenset(map(anchor_of, re.findall(r"^#+ (.*)$", text, re.MULTILINE)))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"(?<!\\)\]\(([^)\s]+)\)", text):
        if target.startswith(("http:", "https:")):
            continue
        path, _, anchor = target.partition("#")
        led_to = (page.parent / path).resolve() if path else page
        assert led_to.exists(), target
        if anchor:
            assert anchor in anchors_of(led_to), target


def shell_lines(page: Path) -> list[str]:
    """Command lines of the page's shell sessions, continued ones joined, prompts and comments dropped."""
    fences = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    lines = [
        line
        for language, text in fences
        if language in SHELL
        for line in text.replace("\\\n", " ").splitlines()
    ]
    return [line.strip().removeprefix("$ ") for line in lines]


def misused(command: click.Command, arguments: list[str]) -> str | None:
    """The first word that is no verb or option of the command, None when all are."""
    context = click.Context(command)
    known = options_of(command)
    words = iter(arguments)
    for word in words:
        if word.startswith("-") and word != "-":
            name, equals, _ = word.partition("=")
            if name not in known:
                return word
            if known[name] and not equals:
                next(words, None)
        elif isinstance(command, click.Group):
            found = command.get_command(context, word)
            if found is None:
                return word
            command, context = found, click.Context(found, parent=context)
            known |= options_of(command)
    return None


def options_of(command: click.Command) -> dict[str, bool]:
    """Names of options, with whether they take a value."""
    takes_value = {"--help": False, "-h": False}
    for option in command.params:
        if isinstance(option, click.Option):
            for name in (*option.opts, *option.secondary_opts):
                takes_value[name] = not (option.is_flag or option.count)
    return takes_value


def words_of(line: str) -> list[str]:
    words = shlex.split(line, comments=True)
    return words[: next((i for i, word in enumerate(words) if word in "|>&;"), len(words))]


@pytest.mark.parametrize("page", WRITTEN, ids=named)
def test_commands_shown_exist(page: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for line in shell_lines(page):
        words = words_of(line)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        if not words:
            continue
        program = Path(words[0]).name
        if program == "make":
            assert words[1] in targets, line
        elif program in PROGRAMS:
            assert misused(PROGRAMS[program], words[1:]) is None, line


def service_methods() -> set[str]:
    methods = set()
    for proto in (ROOT / "proto" / "souverix").rglob("*.proto"):
        module = ".".join(proto.relative_to(ROOT / "proto").with_suffix("").parts) + "_pb2"
        file: FileDescriptor = import_module(module).DESCRIPTOR
        for service in file.services_by_name.values():
            methods |= {f"{service.full_name}/{method.name}" for method in service.methods}
            methods.add(service.full_name)
    return methods


@pytest.mark.parametrize("page", WRITTEN, ids=named)
def test_services_named_exist(page: Path) -> None:
    named_here = re.findall(r"\bsouverix\.[a-z]+\.v1\.\w*Service(?:/\w+)?", page.read_text())
    assert set(named_here) <= service_methods()


@pytest.mark.parametrize("page", WRITTEN, ids=named)
def test_files_named_exist(page: Path) -> None:
    """Paths in code font that begin with a directory of ours and end in a suffix."""
    directories = "controller|federation|nodeagent|souverixctl|proto|deploy|docs|scripts|tests"
    pattern = rf"`((?:{directories})/[\w./@-]+\.[a-z]+)`"
    for path in re.findall(pattern, page.read_text()):
        assert (ROOT / path).exists(), path


def test_declared_programs_are_the_documented_ones() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["scripts"]) == set(PROGRAMS)
