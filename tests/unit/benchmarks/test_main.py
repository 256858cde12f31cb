from __future__ import annotations

import importlib
import json
import sys
from types import ModuleType
from typing import Any

import pytest

from benchmarks import __main__ as runner
from benchmarks.report import report


@pytest.fixture
def two_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("one", 1.0), ("two", 2.0)):
        module = ModuleType(f"made_up_{name}")

        def run(name: str = name, value: float = value) -> dict[str, Any]:
            return report(name, "x/s", [value], {"raw": [1.0]})

        module.__dict__["run"] = run
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(runner, "BENCHMARKS", {"one": "made_up_one", "two": "made_up_two"})


@pytest.mark.usefixtures("two_benchmarks")
@pytest.mark.parametrize(
    ("arguments", "names"), [([], ["one", "two"]), (["two"], ["two"])], ids=["all", "one"]
)
def test_a_line_of_json_for_each_and_progress_beside_it(
    arguments: list[str], names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert runner.main(arguments) == 0
    said = capsys.readouterr()
    assert [json.loads(text)["benchmark"] for text in said.out.splitlines()] == names
    assert all(f"{name}: begins" in said.err for name in names)


@pytest.mark.usefixtures("two_benchmarks")
def test_an_unknown_name_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.main(["one", "three"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "'three'" in said.err
    assert "one, two" in said.err


@pytest.mark.parametrize("module", runner.BENCHMARKS.values())
def test_every_benchmark_can_be_run(module: str) -> None:
    assert callable(importlib.import_module(module).run)
