"""The beginning of a domain: the facts its parent's master writes into the new domain's control lane, and their order.
Owns that order; never decides whether a domain may be declared.

Authority comes first, for nothing of a domain takes effect elsewhere before it has a place in the tree (design §6);
the key of its controller follows, then the description and the existence that rest on both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from federation.chain import key_id_of
from federation.codec import Term
from souverix.federation.v1 import authority_pb2
from souverix.fleet.v1 import domain_pb2

#: Term of a domain's first authority record.
FIRST_TERM = 1


class WriteEvent(Protocol):
    """Drafts one event: `Draft.write`, or `Proposal.write` with its principal bound."""

    def __call__(self, domain: str, subject: str, aspect: str, body: Any, /) -> object:
        """Drafts the event."""


@dataclass(frozen=True, slots=True)
class DomainDeclaration:
    """What is declared of a new domain. `spec.parent` names its parent."""

    domain: str
    spec: domain_pb2.DomainSpec
    master_of_record: str
    level: authority_pb2.AuthorityLevel
    #: Controller that serves the domain; empty: it has none of its own.
    controller: str = ""
    #: Raw Ed25519 key of that controller, 32 bytes; empty: none is granted now.
    public_key: bytes = b""
    autonomy: authority_pb2.Autonomy | None = None
    sync: authority_pb2.SyncStrategy | None = None
    reason: str = ""


def declare_domain(
    write: WriteEvent, declaration: DomainDeclaration, parent_term: Term, wall_ms: int
) -> None:
    """Drafts a domain's first facts. `parent_term` is the parent's term path, `wall_ms` milliseconds since the epoch.

    Raises whatever `write` raises.
    """
    domain = declaration.domain
    subject = f"domains/{domain}"
    write(
        domain,
        subject,
        "authority",
        authority_pb2.AuthorityRecord(
            domain=domain,
            parent=declaration.spec.parent,
            level=declaration.level,
            master_of_record=declaration.master_of_record,
            term=FIRST_TERM,
            since=(*parent_term, FIRST_TERM),
            autonomy=declaration.autonomy,
            sync=declaration.sync,
            reason=declaration.reason,
            controller=declaration.controller,
        ),
    )
    if declaration.public_key:
        write(
            domain,
            f"controllers/{declaration.controller}",
            "key_grant",
            authority_pb2.KeyGrant(
                controller=declaration.controller,
                domain=domain,
                key_id=key_id_of(declaration.public_key),
                public_key=declaration.public_key,
            ),
        )
    write(domain, subject, "domain_spec", declaration.spec)
    created = domain_pb2.Existence(exists=True, reason=declaration.reason, time=_timestamp(wall_ms))
    write(domain, subject, "existence", created)


def _timestamp(wall_ms: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMilliseconds(wall_ms)
    return stamp
