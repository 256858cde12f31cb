"""Enrolment and recovery as an installer sees them: a directory that has a certificate afterwards.

Owns the files of a machine that is being enrolled, the waiting, and the addresses tried. The key is made here and stays
here; while a machine waits for approval it is kept, so that the program may be ended and started again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from nodeagent.errors import SettingsInvalid
from nodeagent.joining import (
    Issued,
    JoiningUnavailable,
    Pinned,
    Waiting,
    believe,
    enrol,
    recover,
)
from trust.errors import CertificateRefused, FilesUnusable, KeyUnreadable
from trust.files import (
    IDENTITY_FILE,
    ROOTS_FILE,
    TrustFiles,
    read_roots,
    write_file,
    write_identity,
    write_roots,
)
from trust.keys import MAX_KEY_BYTES, TlsKey, new_tls_key, public_key_hash, read_tls_key, to_pem

KEY_FILE = "enrolling-key.pem"
"""The key of a machine that has no certificate for it yet."""

RETRY_S = 2.0
"""Between two rounds through the addresses when nobody answers."""

Tell = Callable[[str], None]

T = TypeVar("T")


def pinned_roots(directory: Path, fingerprint: str, roots: Path | None) -> Pinned:
    """Whom the installer vouches for: a fingerprint, a file, or the roots.pem that lies in the directory already.

    Raises SettingsInvalid when nobody is named.
    """
    if fingerprint:
        plain = fingerprint.replace(":", "").lower()
        if len(plain) != 64 or any(c not in "0123456789abcdef" for c in plain):
            raise SettingsInvalid(
                "--root-fingerprint is the SHA-256 of the root, 64 hexadecimal digits, as it was given with the token"
            )
        return Pinned(fingerprint=plain)
    path = roots or directory / ROOTS_FILE
    if roots is None and not path.exists():
        raise SettingsInvalid(
            "whom is the controller to be believed by? Give --root-fingerprint as it was told with the token, or "
            f"--roots FILE, or put {ROOTS_FILE} into {directory}"
        )
    try:
        return Pinned(roots=read_roots(path))
    except FilesUnusable as error:
        raise SettingsInvalid(str(error)) from error


async def enrol_into(
    directory: Path,
    addresses: Sequence[str],
    token: str,
    node: str,
    pinned: Pinned,
    timeout_s: float,
    tell: Tell,
) -> None:
    """Enrols; the directory has `identity.pem` and `roots.pem` then. Waits for approval so long.

    Raises SettingsInvalid, JoiningRefused, JoiningUnavailable.
    """
    if token.count(".") != 2:
        raise SettingsInvalid(
            "the token is not of the form DOMAIN.ID.SECRET; was all of it copied?"
        )
    domain = token.partition(".")[0]
    key = _kept_key(directory)
    deadline_s = time.monotonic() + timeout_s
    told = False

    async def enrol_at(address: str) -> Issued | Waiting:
        return await enrol(await believe(address, domain, pinned), token, node, key)

    while True:
        outcome = await _at_any(addresses, deadline_s, enrol_at)
        if isinstance(outcome, Issued):
            break
        if not told:
            told = True
            shown = public_key_hash(key.public_key()).hex()
            tell(
                f"{node} waits for approval; its key is {shown}. Whoever may approves it by:\n"
                f"  souverixctl enrolment approve {domain}/{node}"
            )
        if time.monotonic() + outcome.retry_after_s > deadline_s:
            raise JoiningUnavailable(
                f"{node} still waits for approval; run the same command again to go on waiting"
            )
        await asyncio.sleep(outcome.retry_after_s)
    _finish(directory, key, outcome)
    until = outcome.certificates[0].not_valid_after_utc
    tell(
        f"{node} is enrolled in {domain}: {directory / IDENTITY_FILE}, good until {until:%Y-%m-%d %H:%M} UTC"
    )


async def recover_in(
    directory: Path, addresses: Sequence[str], timeout_s: float, tell: Tell
) -> None:
    """Has the certificate of a directory issued anew. Raises SettingsInvalid, JoiningRefused, JoiningUnavailable."""
    try:
        old = TrustFiles.in_directory(directory).read()
        who = old.identity
    except (FilesUnusable, CertificateRefused) as error:
        raise SettingsInvalid(str(error)) from error
    key = new_tls_key()
    pinned = Pinned(roots=old.roots)

    async def recover_at(address: str) -> Issued:
        return await recover(await believe(address, who.domain, pinned), old, key)

    issued = await _at_any(addresses, time.monotonic() + timeout_s, recover_at)
    _write(directory, key, issued)
    until = issued.certificates[0].not_valid_after_utc
    tell(f"the certificate of {who.principal} is good until {until:%Y-%m-%d %H:%M} UTC")


async def _at_any(
    addresses: Sequence[str], deadline_s: float, ask: Callable[[str], Awaitable[T]]
) -> T:
    """The first answer of those who may give one. Raises JoiningRefused, JoiningUnavailable."""
    while True:
        for address in addresses:
            try:
                return await ask(address)
            except JoiningUnavailable as error:
                last = error
        if time.monotonic() + RETRY_S > deadline_s:
            raise last
        await asyncio.sleep(RETRY_S)


def _kept_key(directory: Path) -> TlsKey:
    """The key of an enrolment that was begun here, or a new one."""
    path = directory / KEY_FILE
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if path.exists():
            return read_tls_key(path.read_bytes()[:MAX_KEY_BYTES])
        key = new_tls_key()
        write_file(path, to_pem(key), private=True)
    except OSError as error:
        raise SettingsInvalid(f"{path} cannot be used: {error.strerror}") from error
    except (FilesUnusable, KeyUnreadable) as error:
        raise SettingsInvalid(str(error)) from error
    return key


def _finish(directory: Path, key: TlsKey, issued: Issued) -> None:
    _write(directory, key, issued)
    (directory / KEY_FILE).unlink(missing_ok=True)


def _write(directory: Path, key: TlsKey, issued: Issued) -> None:
    """The roots first: a certificate without them is of no use."""
    try:
        write_roots(directory, issued.roots)
        write_identity(directory, to_pem(key), issued.certificates)
    except FilesUnusable as error:
        raise SettingsInvalid(str(error)) from error
