"""What a log takes in etcd's file, and how what was trimmed is given back. Owns when the file is
rewritten; never deletes a key.

Deleted keys stay in etcd's history until that is compacted; their pages are then free for more, but the file keeps its
size. Only a rewrite (defragmentation) makes it smaller, and a member answers nobody meanwhile. How long depends on what
is in use, not on what is free: 0.7 s were measured with 130 MB in use, 5.3 s with 1.7 GB.
"""

from __future__ import annotations

import time
from contextlib import suppress

from controller.etcd.client import Etcd
from controller.etcd.errors import Compacted
from controller.log.port import Reclaimed, Space

COMPACT_TIMEOUT_S = 60.0
"""For etcd to drop its history: it does so in steps, beside its work, at some 50,000 keys a second."""
REWRITE_TIMEOUT_S = 10.0
"""For a rewrite: many times what MAX_REWRITTEN_BYTES should take."""
MAX_REWRITTEN_BYTES = 384 * 1024 * 1024
"""Most that may be in use for a rewrite: some 2 s at the speed measured, well below a lease."""
MIN_FREE_BYTES = 64 * 1024 * 1024
"""Least free space that is worth a rewrite; less of it is soon used again."""
MIN_FREE_SHARE = 0.5
"""Least share of the file: what is given back should be more than what is written for it."""


async def space(etcd: Etcd) -> Space:
    """The size of the file of the member that answers. Raises EtcdError."""
    status = await etcd.status()
    return Space(status.dbSize, max(0, status.dbSize - status.dbSizeInUse))


async def reclaim(etcd: Etcd, revision: int, *, rewrite: bool) -> Reclaimed:
    """Drop etcd's history up to a revision, and rewrite its file if that is allowed and worth it.

    Raises EtcdError.
    """
    # Another replica, or etcd by itself, may have done so further on.
    with suppress(Compacted):
        await etcd.compact(revision, COMPACT_TIMEOUT_S)
    before = await space(etcd)
    if not rewrite or not is_worth_it(before):
        return Reclaimed(0, 0.0)
    began_s = time.monotonic()
    await etcd.defragment(REWRITE_TIMEOUT_S)
    stalled_s = time.monotonic() - began_s
    after = await space(etcd)
    return Reclaimed(max(0, before.file_bytes - after.file_bytes), stalled_s)


def is_worth_it(held: Space) -> bool:
    """Tells whether a rewrite gives back enough, and stalls for a short time only."""
    return (
        held.free_bytes >= MIN_FREE_BYTES
        and held.free_bytes >= MIN_FREE_SHARE * held.file_bytes
        and held.file_bytes - held.free_bytes <= MAX_REWRITTEN_BYTES
    )
