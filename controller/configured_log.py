"""The log that the configuration names, with its archive. Owns which one that is, and its end; reads nothing of it."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

from controller.archive.archived_log import ArchivedLog
from controller.archive.directory import ArchiveDirectory
from controller.config import ConfigError, ControllerConfig
from controller.etcd.access import Access, Password, TlsFiles
from controller.log.embedded import EmbeddedEtcd
from controller.log.etcd_log import EtcdLog
from controller.log.port import StoredLog
from controller.log.sqlite_log import SqliteLog


@contextlib.asynccontextmanager
async def open_log(config: ControllerConfig) -> AsyncIterator[ArchivedLog]:
    """The log the configuration names, and its archive; an etcd of our own where it names none.

    Raises `ConfigError`.
    """
    directory = config.controller.data_dir
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"controller.data_dir {directory} cannot be made: {error.strerror}"
        ) from error
    async with contextlib.AsyncExitStack() as stack:
        log: StoredLog
        if config.log.kind == "sqlite":
            log = SqliteLog(directory / "log.sqlite", uuid.uuid4().hex)
        elif config.log.endpoints:
            log = EtcdLog(_access(config), config.log.prefix)
        else:
            embedded = EmbeddedEtcd(config.log.etcd_binary, directory / "etcd")
            await stack.enter_async_context(embedded)
            log = EtcdLog(embedded.access, config.log.prefix, owns_etcd=True)
        stack.push_async_callback(log.close)
        archive = Path(config.log.archive_dir) if config.log.archive_dir else directory / "archive"
        yield ArchivedLog(log, ArchiveDirectory(archive))


def _access(config: ControllerConfig) -> Access:
    section = config.log.access
    tls = None
    if section.ca:
        tls = TlsFiles(
            Path(section.ca),
            Path(section.cert) if section.cert else None,
            Path(section.key) if section.key else None,
        )
    password = None
    if section.user:
        try:
            secret = Path(section.password_file).read_text().strip()
        except OSError as error:
            raise ConfigError(
                f"log.access.password_file {section.password_file!r} cannot be read: {error.strerror}"
            ) from error
        password = Password(section.user, secret)
    return Access(config.log.endpoints, tls, password, section.allow_lossy_versions)
