"""Generates the Python modules of the contract from `proto/`.

Owns the packages `souverix` and `etcdrpc` in the project root: they are built, never committed.
It is a hatch build hook, so that a plain and an editable install both work from a clone, and a
command (`python hatch_build.py`), which is what `make proto` runs.

A run changes only what differs, and drops modules whose .proto is gone: a process that imports
the packages meanwhile never meets an empty one.
"""

from __future__ import annotations

import os
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

from grpc_tools import protoc
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

GENERATED_PACKAGES = ("souverix", "etcdrpc")


def generate(root: Path) -> int:
    """Bring the generated packages under `root` in line with `root/proto`.

    Returns the number of .proto files compiled. Raises RuntimeError when one does not compile;
    the packages are then left as they were.
    """
    proto_dir = root / "proto"
    sources = sorted(str(path.relative_to(proto_dir)) for path in proto_dir.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as scratch:
        if sources:
            _compile(proto_dir, sources, Path(scratch))
        wanted = _read_packages(Path(scratch))
    _bring_in_line(root, wanted)
    return len(sources)


def _compile(proto_dir: Path, sources: list[str], out: Path) -> None:
    well_known_types = files("grpc_tools") / "_proto"
    status = protoc.main(
        [
            "protoc",
            f"-I{proto_dir}",
            f"-I{well_known_types}",
            f"--python_out={out}",
            f"--pyi_out={out}",
            f"--grpc_python_out={out}",
            *sources,
        ]
    )
    if status != 0:
        raise RuntimeError(f"protoc refused the files in {proto_dir}: see its messages above")
    for directory in {out.joinpath(source).parent for source in sources}:
        while directory != out:
            directory.joinpath("__init__.py").touch()
            directory = directory.parent


def _read_packages(root: Path) -> dict[Path, bytes]:
    """Every generated file below `root`, by its path relative to it."""
    return {
        path.relative_to(root): path.read_bytes()
        for package in GENERATED_PACKAGES
        for path in root.joinpath(package).rglob("*.py*")
        if path.suffix in {".py", ".pyi"}
    }


def _bring_in_line(root: Path, wanted: dict[Path, bytes]) -> None:
    present = _read_packages(root)
    for path, content in wanted.items():
        if present.get(path) != content:
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.{os.getpid()}")
            partial.write_bytes(content)
            partial.replace(target)
    for path in present.keys() - wanted.keys():
        root.joinpath(path).unlink()


class GenerateContract(BuildHookInterface[Any]):
    """Runs the generation before hatch collects files."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Generate in place: a wheel then packs the modules, an editable install points there."""
        generate(Path(self.root))


if __name__ == "__main__":
    try:
        compiled = generate(Path(__file__).resolve().parent)
    except RuntimeError as error:
        sys.exit(f"proto: {error}; the generated packages stay as they were")
    print(f"proto: {compiled} files compiled into {' and '.join(GENERATED_PACKAGES)}")
