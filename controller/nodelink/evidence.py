"""What remains of a backlog that was refused. Owns which facts of it are kept; judges nothing, and keeps no bytes."""

from __future__ import annotations

import hashlib

from controller.nodelink.proof import chain_next
from controller.nodelink.staging import Staged
from federation.chain import key_id_of
from souverix.fleet.v1 import return_pb2
from souverix.nodelink.v1 import nodelink_pb2

#: Bytes of a chain hash; of what a chunk named instead, no more is kept.
HASH_BYTES = 32


def evidence_of(
    before: Staged, chunk: nodelink_pb2.ReplayChunk, public_key: bytes, run: str = ""
) -> return_pb2.BacklogEvidence:
    """A chunk that was refused, and what had been staged before it."""
    digest, head = hashlib.sha256(), before.head
    for raw in chunk.reports:
        digest.update(raw)
        head = chain_next(head, raw)
    return return_pb2.BacklogEvidence(
        agent_source=before.source,
        run=run,
        key_id=key_id_of(public_key),
        first_report=before.first,
        reports_staged=before.reports,
        chunk=chunk.number,
        chunk_first_report=chunk.first_sequence,
        chunk_reports=len(chunk.reports),
        chunk_bytes=sum(map(len, chunk.reports)),
        chunk_digest=digest.digest(),
        chain_computed=head,
        chain_claimed=chunk.chain_hash[:HASH_BYTES],
    )
