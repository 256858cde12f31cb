"""A bearer's files: private key and certificate chain, and the roots it trusts. Owns how they are named, written
atomically, read, and read again when they changed; never what they are used for, nor when they must be renewed.

Key and chain lie in one file, so that they change together. Files of other tools, with a file for each, are read, too;
while one of the two was replaced and the other not yet, they do not fit, and what was read before stays in use.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509

from trust.authority import Authority
from trust.certificates import (
    MAX_PEM_BYTES,
    MAX_ROOTS,
    Chain,
    identity_of,
    parse_pem,
    path_to_root,
    to_pem,
    verify_chain,
)
from trust.errors import CertificateRefused, FilesUnusable, KeyUnreadable
from trust.identity import Identity, dns_name_of
from trust.keys import MAX_KEY_BYTES, TlsKey, is_encrypted, read_tls_key
from trust.keys import to_pem as key_to_pem

#: Private key and certificates, the bearer's first, its root left out.
IDENTITY_FILE = "identity.pem"

#: Certificates of the trusted roots.
ROOTS_FILE = "roots.pem"

#: An authority's private key, which may be encrypted, and its certificates, its own first, the root left out. The root
#: has its own certificate there.
AUTHORITY_KEY_FILE = "ca-key.pem"
AUTHORITY_FILE = "ca.pem"

_KEY_BLOCK = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a bearer shows, and whom it trusts: read and found to fit, not yet judged at any time."""

    key: TlsKey = field(repr=False, compare=False)
    certificates: tuple[x509.Certificate, ...]
    roots: tuple[x509.Certificate, ...]

    @property
    def leaf(self) -> x509.Certificate:
        """The bearer's own certificate."""
        return self.certificates[0]

    @property
    def identity(self) -> Identity:
        """Who the bearer is. Raises `CertificateRefused`."""
        return identity_of(self.leaf)

    @property
    def authorities(self) -> tuple[x509.Certificate, ...]:
        """The authorities above the bearer, the nearest first, a root that issued the last of them included.

        Raises `CertificateRefused`.
        """
        return _with_root(self.certificates, self.roots)[1:]

    @property
    def path(self) -> tuple[str, ...]:
        """The domains from the root's to the bearer's. Raises `CertificateRefused`."""
        return path_to_root(self.certificates, self.roots)

    def controller_name(self, levels_up: int = 0) -> str:
        """The DNS name by which the controller of the bearer's domain proves itself, or that of a domain so many levels
        above. Raises `CertificateRefused`, `NameInvalid`.
        """
        path = self.path
        return dns_name_of(path[: max(1, len(path) - levels_up)], self.identity.trust_domain)

    def verified(self, at: datetime) -> Chain:
        """The chain, good at a time. Raises `CertificateRefused`."""
        return verify_chain(self.certificates, self.roots, at)

    @property
    def key_pem(self) -> bytes:
        """The private key as PEM, in clear."""
        return key_to_pem(self.key)

    @property
    def chain_pem(self) -> bytes:
        """What is shown to the other side: the leaf, then the authorities without the root."""
        return to_pem(c for c in self.certificates if c not in self.roots)

    @property
    def roots_pem(self) -> bytes:
        """The trusted roots."""
        return to_pem(self.roots)


@dataclass(frozen=True, slots=True)
class TrustFiles:
    """Where key, chain and roots lie; certificate and key may be the same file."""

    certificate: Path
    key: Path
    roots: Path

    @classmethod
    def in_directory(cls, directory: Path) -> TrustFiles:
        """The files of a directory under their usual names."""
        identity = directory / IDENTITY_FILE
        return cls(identity, identity, directory / ROOTS_FILE)

    def read(self) -> Credentials:
        """What the files hold. Raises `FilesUnusable` naming the file and the next step."""
        shown = read_bounded(self.certificate, MAX_PEM_BYTES + MAX_KEY_BYTES)
        certificates = _parsed(self.certificate, shown)
        # Of one file that holds both, one look: it may be replaced between two.
        one = self.key == self.certificate
        key_pem = shown if one else read_bounded(self.key, MAX_PEM_BYTES + MAX_KEY_BYTES)
        _check_private(self.key)
        block = _KEY_BLOCK.search(key_pem)
        try:
            key = read_tls_key(block.group() if block else key_pem)
        except KeyUnreadable as error:
            raise FilesUnusable(f"{self.key}: {error}") from error
        if key.public_key() != certificates[0].public_key():
            raise FilesUnusable(
                f"{self.key} is not the key of the first certificate in {self.certificate}; replace both together"
            )
        credentials = Credentials(key, certificates, read_roots(self.roots))
        try:
            _ = credentials.path
        except CertificateRefused as error:
            raise FilesUnusable(f"{self.certificate}: {error}") from error
        return credentials

    def stamp(self) -> tuple[object, ...]:
        """Differs after any of the files was replaced or written to."""
        return tuple(stamp_of(path) for path in (self.certificate, self.key, self.roots))


class ReloadedCredentials:
    """Credentials that follow their files. Raises `FilesUnusable` when the files cannot be read at first."""

    def __init__(self, files: TrustFiles) -> None:
        self.files = files
        self._stamp = files.stamp()
        self.current = files.read()
        #: Called after `current` has become another.
        self.on_renewal: list[Callable[[], None]] = []

    def reload(self) -> bool:
        """Reads the files again if they changed, and tells whether `current` is another now.

        Raises `FilesUnusable` when they cannot be used; then what was read before stays, and the next call tries again.
        """
        stamp = self.files.stamp()
        if stamp == self._stamp:
            return False
        found = self.files.read()
        self._stamp = stamp
        if found == self.current:
            return False
        self.current = found
        for listener in self.on_renewal:
            listener()
        return True


class ReloadedAuthority:
    """An authority that follows its files. The passphrase of its key, if it has one, is a file's first line."""

    def __init__(self, directory: Path, passphrase_file: Path | None) -> None:
        self.directory = directory
        self._passphrase_file = passphrase_file
        self._stamp: object = None
        self._read: Authority | None = None

    def current(self, at: datetime) -> Authority:
        """The authority as its files are now. Raises `FilesUnusable`, `KeyUnreadable`."""
        stamp = tuple(
            stamp_of(self.directory / name) for name in (AUTHORITY_FILE, AUTHORITY_KEY_FILE)
        )
        if self._read is None or stamp != self._stamp:
            passphrase = None
            if self._passphrase_file is not None:
                passphrase = read_bounded(self._passphrase_file, MAX_KEY_BYTES).split(b"\n")[0]
            self._read = read_authority(self.directory, passphrase, at)
            self._stamp = stamp
        return self._read


def read_authority(directory: Path, passphrase: bytes | None, at: datetime) -> Authority:
    """The authority whose key and certificates lie in a directory. Raises `FilesUnusable`, `KeyUnreadable`."""
    certificates = _certificates(directory / AUTHORITY_FILE)
    path = directory / AUTHORITY_KEY_FILE
    key_pem = read_bounded(path, MAX_KEY_BYTES)
    _check_private(path)
    key = read_tls_key(key_pem, passphrase)
    try:
        return Authority.opened(key, certificates, read_roots(directory / ROOTS_FILE), at)
    except CertificateRefused as error:
        raise FilesUnusable(f"{directory / AUTHORITY_FILE}: {error}") from error


def authority_key_is_encrypted(directory: Path) -> bool:
    """Tells whether `read_authority` needs a passphrase. Raises `FilesUnusable`."""
    return is_encrypted(read_bounded(directory / AUTHORITY_KEY_FILE, MAX_KEY_BYTES))


def write_authority(
    directory: Path, certificates: Sequence[x509.Certificate], key_pem: bytes | None
) -> None:
    """Writes an authority's files where none are yet: its certificates up to the root, and its key, unless that was
    made elsewhere. Raises `FilesUnusable`.
    """
    if key_pem is not None:
        write_file(directory / AUTHORITY_KEY_FILE, key_pem, private=True, replace=False)
    shown = certificates[:-1] or certificates
    write_file(directory / AUTHORITY_FILE, to_pem(shown), private=False, replace=False)
    write_file(directory / ROOTS_FILE, to_pem(certificates[-1:]), private=False, replace=False)


def read_roots(path: Path) -> tuple[x509.Certificate, ...]:
    """The trusted roots of a file. Raises `FilesUnusable`."""
    return _certificates(path, MAX_ROOTS)


def write_identity(
    directory: Path, key_pem: bytes, certificates: Iterable[x509.Certificate]
) -> None:
    """Puts a key and its chain in place of those in the directory, both or neither. Raises `FilesUnusable`."""
    write_file(directory / IDENTITY_FILE, key_pem + to_pem(certificates), private=True)


def write_roots(directory: Path, roots: Iterable[x509.Certificate]) -> None:
    """Puts trusted roots in place of those in the directory. Raises `FilesUnusable`."""
    write_file(directory / ROOTS_FILE, to_pem(roots), private=False)


def write_file(path: Path, data: bytes, *, private: bool, replace: bool = True) -> None:
    """Writes a file so that a reader sees the old or the new, durable on return. Raises `FilesUnusable`.

    A private one is readable by its owner only. Without `replace` a file that is there stays, and this is refused.
    """
    staged = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(
            staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o644
        )
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                staged.replace(path)
            else:
                os.link(staged, path)  # Fails where a file is: a rename would not.
        finally:
            with contextlib.suppress(FileNotFoundError):
                staged.unlink()
        parent = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)
    except FileExistsError as error:
        raise FilesUnusable(f"{path} is there already, and is not overwritten") from error
    except OSError as error:
        raise FilesUnusable(f"{path} cannot be written: {error.strerror}") from error


def _with_root(
    certificates: tuple[x509.Certificate, ...], roots: tuple[x509.Certificate, ...]
) -> tuple[x509.Certificate, ...]:
    root = next((r for r in roots if certificates[-1].issuer == r.subject), None)
    return certificates if root is None or root in certificates else (*certificates, root)


def _certificates(path: Path, most: int | None = None) -> tuple[x509.Certificate, ...]:
    return _parsed(path, read_bounded(path, MAX_PEM_BYTES), most)


def _parsed(path: Path, data: bytes, most: int | None = None) -> tuple[x509.Certificate, ...]:
    try:
        return parse_pem(data) if most is None else parse_pem(data, most)
    except CertificateRefused as error:
        raise FilesUnusable(f"{path}: {error}") from error


def read_bounded(path: Path, most: int) -> bytes:
    """A file of at most so many bytes. Raises `FilesUnusable`."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise FilesUnusable(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > most:
        raise FilesUnusable(f"{path} is longer than {most} bytes, and no such file")
    return data


def _check_private(path: Path) -> None:
    if path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        raise FilesUnusable(f"{path} holds a private key and is open to everybody: chmod 600 it")


def stamp_of(path: Path) -> object:
    """Differs after a file was replaced or written to; None: there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino)
