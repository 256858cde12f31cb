"""Fixtures for all tests: the external programs, and real processes that end with their test."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import hypothesis
import pytest

from tests.certificates import CertificateTree
from tests.processes import ProcessStarter

TOOLS_BIN = Path(__file__).resolve().parent.parent / ".tools" / "bin"

# etcd 3.5.0 to 3.5.2 can lose acknowledged data when killed under load: what a test finds with
# one of them says nothing about the project.
ETCD_THAT_LOSES_DATA = re.compile(r"\b3\.5\.[0-2]\b")

# No deadline: how long an example takes depends on what else the machine does. In CI the examples
# are the same in each run; elsewhere every run looks at new ones.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") == "true" else "project")


def find_program(name: str) -> Path:
    """The program from `.tools/bin`, else PATH; without it the test is skipped, in CI it fails."""
    search = os.pathsep.join([str(TOOLS_BIN), os.environ.get("PATH", os.defpath)])
    found = shutil.which(name, path=search)
    if found is None:
        do_without(f"{name} is neither in .tools/bin nor on PATH: try `make tools`")
    return Path(found)


def do_without(reason: str) -> NoReturn:
    """Skip the test for want of a program; in CI nothing may be missing, so there it fails."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason} (in CI nothing may be skipped for want of a program)")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def etcd_binary() -> Path:
    """The etcd server."""
    program = find_program("etcd")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    if ETCD_THAT_LOSES_DATA.search(version.stdout):
        do_without(f"{program} is of the versions that lose data when killed")
    return program


@pytest.fixture(scope="session")
def etcdctl_binary() -> Path:
    """etcd's command line."""
    return find_program("etcdctl")


@pytest.fixture(scope="session")
def grpcurl_binary() -> Path:
    """The gRPC command line."""
    return find_program("grpcurl")


@pytest.fixture(scope="session")
def buf_binary() -> Path:
    """The protobuf linter, whose `buf curl` is a gRPC command line too."""
    return find_program("buf")


@pytest.fixture
def start_process(tmp_path: Path) -> Iterator[ProcessStarter]:
    """Starts real processes, with logs in `tmp_path`; all are stopped when the test ends."""
    starter = ProcessStarter(tmp_path)
    yield starter
    starter.stop_all()


@pytest.fixture(scope="session")
def certificate_tree(tmp_path_factory: pytest.TempPathFactory) -> CertificateTree:
    """Authorities of a small federation, to issue certificates from."""
    return CertificateTree(tmp_path_factory.mktemp("certificates"))
