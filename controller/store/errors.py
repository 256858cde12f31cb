"""What may go wrong with the store. Each says who must act."""

from __future__ import annotations

from pathlib import Path


class StoreError(Exception):
    """Root of the store's errors."""


class StoreInUse(StoreError):
    """Another process has this data directory: an operator must give each replica one of its own."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} is used by another process; give each replica a controller.data_dir of its own"
        )


class StoreDamaged(StoreError):
    """The file cannot be read any more. The process must end; the next start makes it anew from the log."""

    def __init__(self, path: Path, error: Exception) -> None:
        super().__init__(f"{path}: {error}; start again: it is made anew from the log")
