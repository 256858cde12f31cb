"""The node's configuration: documents a controller sent, kept as files that programs of the node may read.

Owns the directory of documents, which of them is in force, and which policy that is the outcome of. A file is
replaced as a whole or not at all. What is in force is what its file holds, so hash and content never disagree.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from nodeagent.canonical_json import Json, canonical_json, sha256_digest
from nodeagent.errors import CommandRefused, StateUnavailable
from nodeagent.statedir import Database

DEFAULT_NAME = "default"

MAX_DOCUMENT_BYTES = 256 * 1024
"""Largest document, in canonical JSON: a report carries it, and reports travel in messages of at most 1 MiB."""

MAX_DOCUMENT_DEPTH = 16
"""Deepest nesting; protobuf itself refuses frames nested a little deeper than thirty."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Configuration:
    """The configuration in force. `time_us`: when it was last applied."""

    name: str
    document: dict[str, Json]
    digest: str
    time_us: int


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy in force: what was applied last is its outcome. `version` is "" where it has none."""

    bundle: str
    version: str


class ConfigurationStore:
    """One node's configuration documents, in `directory`."""

    def __init__(self, directory: Path, database: Database, node: str) -> None:
        self._directory = directory
        self._database = database
        self._node = node

    def apply(
        self, name: str, document: dict[str, Json], now_us: int, policy: Policy | None = None
    ) -> Configuration:
        """Keep `document` under `name` and put it in force, as the outcome of `policy`; durable on return.

        Raises CommandRefused for a bad name or document, StateUnavailable when the disk refuses; then what was in
        force still is.
        """
        spelled = check_document(name, document)
        target = self._directory / f"{name}.json"
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _replace_durably(target, spelled)
        except OSError as error:
            raise StateUnavailable(f"{target} cannot be written: {error.strerror}") from error
        self._database.write(
            "UPDATE node SET config_name = ?, config_time_us = ?, policy_bundle = ?, policy_version = ? "
            "WHERE node = ?",
            name,
            now_us,
            policy.bundle if policy else None,
            policy.version if policy else None,
            self._node,
        )
        return Configuration(name, document, sha256_digest(spelled), now_us)

    def follow(self, policy: Policy, now_us: int) -> None:
        """Put a policy in force that asks for no document; durable on return. Raises StateUnavailable."""
        self._database.write(
            "UPDATE node SET config_time_us = ?, policy_bundle = ?, policy_version = ? WHERE node = ?",
            now_us,
            policy.bundle,
            policy.version,
            self._node,
        )

    def policy(self) -> Policy | None:
        """The policy in force, or None. Raises StateUnavailable."""
        row = self._database.row(
            "SELECT policy_bundle, policy_version FROM node WHERE node = ?", self._node
        )
        if row is None or row["policy_bundle"] is None:
            return None
        return Policy(row["policy_bundle"], row["policy_version"])

    def applied_us(self) -> int | None:
        """When something was last put in force, or None when nothing ever was. Raises StateUnavailable."""
        row = self._database.row("SELECT config_time_us FROM node WHERE node = ?", self._node)
        return None if row is None else row["config_time_us"]

    def in_force(self) -> Configuration | None:
        """The configuration in force, or None when none was ever applied.

        Raises StateUnavailable when its file is missing or not a JSON object.
        """
        row = self._database.row(
            "SELECT config_name, config_time_us FROM node WHERE node = ?", self._node
        )
        if row is None or row["config_name"] is None:
            return None
        file = self._directory / f"{row['config_name']}.json"
        try:
            document = json.loads(file.read_bytes(), parse_int=float)
            digest = sha256_digest(canonical_json(document))
        except (OSError, ValueError) as error:
            raise StateUnavailable(f"{file} cannot be read: {error}; apply it again") from error
        if not isinstance(document, dict):
            raise StateUnavailable(f"{file} does not hold a JSON object; apply it again")
        return Configuration(row["config_name"], document, digest, row["config_time_us"])


def check_document(name: str, document: dict[str, Json]) -> bytes:
    """The document in canonical JSON, if it may be kept under `name`. Raises CommandRefused."""
    if not _NAME.fullmatch(name):
        raise CommandRefused(
            f"config_name {name[:80]!r} is not usable: 1 to 64 letters, digits, '.', '_' or '-', "
            "beginning with a letter or digit"
        )
    try:
        spelled = canonical_json(document)
    except ValueError as error:
        raise CommandRefused(f"the document cannot be kept as JSON: {error}") from error
    if len(spelled) > MAX_DOCUMENT_BYTES:
        raise CommandRefused(
            f"the document has {len(spelled)} bytes, at most {MAX_DOCUMENT_BYTES} are kept; split it"
        )
    return spelled


def _replace_durably(target: Path, content: bytes) -> None:
    partial = target.with_name(f".{target.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(target)
    directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
