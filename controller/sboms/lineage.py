"""The SBOMs that nodes had: a fact for each node, newest first. Owns when it is written, and by whom; reads no
document.
"""

from __future__ import annotations

import logging
from itertools import islice
from typing import Final, NamedTuple

from controller.journal import JournalError
from controller.log.errors import LogError
from controller.replica import Replica
from controller.sboms.store import Document
from controller.twin.facts import Facts, body_of, exists, home_of, timestamp
from federation.errors import FederationError
from federation.identifiers import Key
from federation.proposal import Proposal
from souverix.supply.v1 import sbom_pb2

_log = logging.getLogger(__name__)

#: Versions kept of one node: a year of fortnightly patches, and some. About 150 bytes each.
MAX_VERSIONS: Final = 32

#: Nodes of one commit.
NODES_AT_ONCE: Final = 250

#: Nodes that wait to be written.
MAX_NOTED: Final = 100_000


class _Seen(NamedTuple):
    digest: str
    observed_ms: int
    document: Document


class Lineage:
    """What one replica has to write of its nodes' SBOMs."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._noted: dict[str, _Seen] = {}

    def note(self, subject: str, digest: str, observed_ms: int, document: Document) -> None:
        """A node has a document that was judged; it is written if the node's last one was another."""
        if not self._replica.is_master or self._writer_of(self._replica.state, subject) is None:
            return
        if len(self._noted) < MAX_NOTED and self._present(subject) != digest:
            self._noted[subject] = _Seen(digest, observed_ms, document)

    async def write(self) -> None:
        """Writes what was noted. What cannot be written is noted again when the node is looked at again."""
        while self._noted:
            some = dict(islice(self._noted.items(), NODES_AT_ONCE))
            for subject in some:
                del self._noted[subject]
            try:
                await self._replica.journal().submit(lambda p, some=some: self._draft(p, some))  # type: ignore[misc]
            except (JournalError, LogError, FederationError) as error:
                _log.warning("SBOMs of nodes were not noted", extra={"error": str(error)})
                return

    def _draft(self, proposal: Proposal, seen: dict[str, _Seen]) -> None:
        principal = f"controller:{self._replica.config.controller.id}"
        for subject, each in seen.items():
            domain = self._writer_of(proposal, subject)
            if domain is None:
                continue
            held = body_of(proposal, Key(domain, subject, "node_sbom")) or sbom_pb2.NodeSbom()
            if held.versions and held.versions[0].digest == each.digest:
                continue
            actual = body_of(proposal, Key(domain, subject, "actual_state"))
            version = sbom_pb2.SbomVersion(
                digest=each.digest,
                state=sbom_pb2.SBOM_STATE_INVALID
                if each.document.reason
                else sbom_pb2.SBOM_STATE_VALID,
                reason=each.document.reason,
                component_count=each.document.component_count,
                unidentified_count=each.document.unidentified_count,
                software_version=actual.reported_version if actual is not None else "",
                record_time=timestamp(proposal.wall_ms),
            )
            if each.observed_ms:
                version.observe_time.CopyFrom(timestamp(each.observed_ms))
            lineage = sbom_pb2.NodeSbom(versions=[version, *held.versions[: MAX_VERSIONS - 1]])
            proposal.write(domain, subject, "node_sbom", lineage, principal=principal)

    def _present(self, subject: str) -> str:
        home = home_of(self._replica.state, subject)
        held = (
            body_of(self._replica.state, Key(home.domain, subject, "node_sbom"))
            if home is not None
            else None
        )
        return held.versions[0].digest if held is not None and held.versions else ""

    def _writer_of(self, facts: Facts, subject: str) -> str | None:
        """The node's domain, if its lineage is this controller's to write."""
        home = home_of(facts, subject)
        if home is None or not exists(facts, home.domain, subject):
            return None
        record = self._replica.state.authority.records.get(home.domain)
        me = self._replica.config.controller.id
        return home.domain if record is not None and record.master_of_record == me else None
