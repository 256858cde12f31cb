"""Installed packages, and their list as a large value.

Owns how package lists are read and how the list is spelled, cut into chunks and named. Must never fail on a
stanza it does not understand: what cannot be read is left out, and the rest still counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nodeagent.canonical_json import Json, canonical_json, sha256_digest
from souverix.fleet.v1 import observation_pb2

VALUE_NAME = "packages"
MEDIA_TYPE = "application/json"

CHUNK_BYTES = 128 * 1024
"""Size of a chunk: within the 256 KiB a frame may carry, and most package lists are one or two."""

MAX_VALUE_BYTES = 16 * 1024 * 1024
"""Largest list reported: far above any real host, far below what would fill the backlog."""


@dataclass(frozen=True, slots=True, order=True)
class DebianPackage:
    """One installed Debian package. `source` is empty when the source package has the same name."""

    name: str
    architecture: str
    version: str
    source: str = ""


@dataclass(frozen=True, slots=True, order=True)
class PythonPackage:
    """One installed Python distribution."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Packages:
    """What is installed on a host."""

    debian: tuple[DebianPackage, ...] = ()
    python: tuple[PythonPackage, ...] = ()


@dataclass(frozen=True, slots=True)
class LargeValue:
    """A value too large for an event: its reference, and its chunks by digest, in order."""

    reference: observation_pb2.LargeValueRef
    chunks: dict[str, bytes]


def parse_dpkg_status(lines: Iterable[str]) -> list[DebianPackage]:
    """The installed packages of a dpkg status file (deb822 stanzas, dpkg's manual page dpkg-query(1)).

    A package counts when its state, the third word of Status, is `installed`: removed ones whose configuration
    files remain, and half-installed ones, do not. Stanzas without name, version or status are passed over.
    """
    packages = []
    for stanza in _stanzas(lines):
        name, version = stanza.get("package", ""), stanza.get("version", "")
        if name and version and stanza.get("status", "").split()[2:] == ["installed"]:
            source = stanza.get("source", "").partition(" ")[0]
            packages.append(DebianPackage(name, stanza.get("architecture", ""), version, source))
    return sorted(set(packages))


def packages_value(packages: Packages) -> LargeValue | None:
    """The package list as a large value: canonical JSON, packages sorted. None when it is unreasonably large."""
    document: Json = {
        "debian": [_debian_entry(package) for package in packages.debian],
        "python": [
            {"name": package.name, "version": package.version} for package in packages.python
        ],
    }
    content = canonical_json(document)
    if len(content) > MAX_VALUE_BYTES:
        return None
    return cut(content, VALUE_NAME, MEDIA_TYPE)


def cut(content: bytes, name: str, media_type: str) -> LargeValue:
    """Cut the content into chunks and name it."""
    pieces = [content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES)]
    chunks = {sha256_digest(piece): piece for piece in pieces}
    reference = observation_pb2.LargeValueRef(
        name=name,
        media_type=media_type,
        digest=sha256_digest(content),
        size_bytes=len(content),
    )
    if len(pieces) > 1:
        for piece in pieces:
            reference.chunks.add(digest=sha256_digest(piece), size_bytes=len(piece))
    return LargeValue(reference, chunks)


def _debian_entry(package: DebianPackage) -> dict[str, Json]:
    entry: dict[str, Json] = {
        "name": package.name,
        "version": package.version,
        "architecture": package.architecture,
    }
    if package.source:
        entry["source"] = package.source
    return entry


def _stanzas(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """Fields of each stanza, names in lower case; of a repeated field the first counts; continuations are not
    needed by any field we read and are passed over.
    """
    stanza: dict[str, str] = {}
    for raw in lines:
        line = raw.rstrip("\r\n")
        if not line.strip():
            if stanza:
                yield stanza
            stanza = {}
        elif not line[0].isspace():
            name, colon, value = line.partition(":")
            if colon:
                stanza.setdefault(name.strip().lower(), value.strip())
    if stanza:
        yield stanza
