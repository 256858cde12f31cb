"""The build: pins that belong together, and generated packages that follow proto/."""

from __future__ import annotations

import tomllib
from importlib.metadata import entry_points, requires
from pathlib import Path

import pytest
from google.protobuf import __version__ as protobuf_version
from packaging.requirements import Requirement
from packaging.version import Version

import hatch_build

ROOT = Path(__file__).resolve().parents[2]

MESSAGE = 'syntax = "proto3";\npackage {package};\nmessage {name} {{}}\n'


def write_proto(root: Path, path: str, name: str) -> None:
    target = root / "proto" / path
    target.parent.mkdir(parents=True, exist_ok=True)
    package = ".".join(Path(path).parent.parts)
    target.write_text(MESSAGE.format(package=package, name=name))


def test_oldest_allowed_runtime_is_not_older_than_what_the_compiler_generates_for() -> None:
    marker = "# Protobuf Python Version: "
    generated = (ROOT / "etcdrpc" / "etcdrpc_pb2.py").read_text().splitlines()
    compiler = Version(next(line for line in generated if line.startswith(marker))[len(marker) :])
    allowed = next(
        requirement
        for requirement in map(Requirement, requires("souverix-control-plane") or [])
        if requirement.name == "protobuf"
    )
    oldest = min(Version(bound.version) for bound in allowed.specifier if bound.operator == ">=")
    assert oldest >= compiler
    assert Version(protobuf_version) in allowed.specifier


def test_a_build_and_make_proto_run_the_same_compiler() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    build = {line for line in pyproject["build-system"]["requires"] if "grpcio-tools" in line}
    development = {
        line
        for line in pyproject["project"]["optional-dependencies"]["dev"]
        if "grpcio-tools" in line
    }
    assert len(build) == 1
    assert build == development


def test_constraints_name_exact_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    assert pins
    for pin in pins:
        assert [bound.operator for bound in pin.specifier] == ["=="], pin
        assert pin.url is None, pin


def test_the_commands_are_installed() -> None:
    commands = {point.name: point.value for point in entry_points(group="console_scripts")}
    assert commands["souverix-controller"] == "controller.main:main"
    assert commands["souverix-node"] == "nodeagent.main:main"
    assert commands["souverixctl"] == "souverixctl.main:main"


def test_generation_makes_importable_packages(tmp_path: Path) -> None:
    write_proto(tmp_path, "souverix/a/v1/a.proto", "First")
    write_proto(tmp_path, "etcdrpc/b.proto", "Second")
    assert hatch_build.generate(tmp_path) == 2
    made = {
        str(path.relative_to(tmp_path / "souverix")) for path in tmp_path.glob("souverix/**/*.py*")
    }
    assert made == {
        "__init__.py",
        "a/__init__.py",
        "a/v1/__init__.py",
        "a/v1/a_pb2.py",
        "a/v1/a_pb2.pyi",
        "a/v1/a_pb2_grpc.py",
    }
    assert tmp_path.joinpath("etcdrpc", "b_pb2.py").exists()


def test_generation_drops_modules_whose_proto_is_gone_and_leaves_the_others_alone(
    tmp_path: Path,
) -> None:
    write_proto(tmp_path, "souverix/a/v1/a.proto", "First")
    write_proto(tmp_path, "souverix/b/v1/b.proto", "Second")
    hatch_build.generate(tmp_path)
    kept = tmp_path / "souverix/a/v1/a_pb2.py"
    written_at = kept.stat().st_mtime_ns
    tmp_path.joinpath("proto/souverix/b/v1/b.proto").unlink()
    hatch_build.generate(tmp_path)
    assert not tmp_path.joinpath("souverix/b/v1/b_pb2.py").exists()
    assert kept.stat().st_mtime_ns == written_at


def test_a_proto_that_does_not_compile_leaves_the_packages_as_they_were(tmp_path: Path) -> None:
    write_proto(tmp_path, "souverix/a/v1/a.proto", "First")
    hatch_build.generate(tmp_path)
    before = tmp_path.joinpath("souverix/a/v1/a_pb2.py").read_bytes()
    tmp_path.joinpath("proto/souverix/a/v1/a.proto").write_text("this is no contract")
    with pytest.raises(RuntimeError, match="refused"):
        hatch_build.generate(tmp_path)
    assert tmp_path.joinpath("souverix/a/v1/a_pb2.py").read_bytes() == before
