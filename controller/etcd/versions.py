"""Which etcd versions are fit to hold a log. Never talks to a server."""

from __future__ import annotations

import re
from collections.abc import Iterable

from controller.etcd.errors import LossyVersion

_FIRST_LOSSY = (3, 5, 0)
_LAST_LOSSY = (3, 5, 2)


def refuse_lossy_versions(versions: Iterable[str]) -> None:
    """Raise LossyVersion if one of the versions can lose acknowledged writes.

    etcd 3.5.0 to 3.5.2 may leave a member inconsistent when it is killed under load.
    """
    for version in versions:
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
        if _FIRST_LOSSY <= numbers <= _LAST_LOSSY:
            raise LossyVersion(
                f"etcd {version} can lose acknowledged writes when it is killed; "
                "install 3.5.3 or newer, or accept the risk explicitly"
            )
