"""Certificates for the controller's own etcd: a root of its own, made anew at each start, whose key is not kept.
Whoever may not read the controller's data directory cannot speak with its etcd. Owns these files; starts nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from controller.etcd.access import TlsFiles
from trust.authority import MAX_LEAF_LIFE, ServerNames, new_root
from trust.certificates import to_pem
from trust.files import write_file
from trust.identity import Kind
from trust.keys import new_tls_key
from trust.keys import to_pem as key_to_pem

#: Names nothing outside of this directory.
_TRUST_DOMAIN = "embedded.internal"


def make_certificates(directory: Path) -> TlsFiles:
    """A root and one certificate for both ends, which are on loopback; they replace earlier ones.

    They are good for over a year, and a controller is started more often than that. Raises `FilesUnusable`.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    now = datetime.now(UTC)
    root = new_root(new_tls_key(), _TRUST_DOMAIN, "etcd", now)
    key = new_tls_key()
    leaf = root.issue(
        key.public_key(),
        Kind.CONTROLLER,
        "etcd",
        now,
        life=MAX_LEAF_LIFE,
        servers=ServerNames(ip=["127.0.0.1"]),
    )
    files = TlsFiles(directory / "ca.pem", directory / "cert.pem", directory / "key.pem")
    write_file(files.authority, to_pem(root.certificates), private=False)
    write_file(directory / "cert.pem", to_pem([leaf]), private=False)
    write_file(directory / "key.pem", key_to_pem(key), private=True)
    return files
