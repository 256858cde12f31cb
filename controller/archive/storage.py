"""What a log takes on disk, as it was when somebody looked. Owns nothing but these numbers."""

from __future__ import annotations

from dataclasses import dataclass

from controller.log.port import Space


@dataclass(frozen=True, slots=True)
class LogStorage:
    """Store and archive of one replica's log."""

    #: From which offset on the store holds the log.
    start: int
    #: Up to which offset the archive holds it.
    archived_to: int
    segments: int
    #: Of the archive's files.
    archive_bytes: int
    #: Of the commits in them, uncompressed.
    archived_commit_bytes: int
    store: Space
