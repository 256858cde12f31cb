"""The worked example of docs/protocol.md, recomputed: every number it shows is what the code makes.

Two domains, `global` and `edge-zone-a1` below it, each with its controller. Keys are made of repeated bytes and time is
given, so that everything is the same every time.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controller.genesis import make_genesis
from controller.log.port import EMPTY_HASH, hash_after
from controller.signing import Ed25519Signer, Ed25519Verifier
from federation.chain import chain_start, seal_message
from federation.clock import HybridClock, wall_ms_of
from federation.codec import Write
from federation.conflicts import DueConflict, conflict_record
from federation.domains import DomainDeclaration, declare_domain
from federation.identifiers import Key, Lane, Origin, StreamId
from federation.keys import genesis_message
from federation.merge import etag_of
from federation.proposal import Identity, Proposal
from federation.receipt import Receipt
from federation.state import State
from souverix.event.v1 import event_pb2
from souverix.federation.v1 import authority_pb2
from souverix.fleet.v1 import domain_pb2
from souverix.policy.v1 import policy_pb2

PROTOCOL = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"

ZONE, GLOBAL = "edge-zone-a1", "global"
BEGIN_MS = 1_800_000_000_000
POLICY = Key(ZONE, "policies/p1", "policy")


def key_of(byte: int) -> Ed25519Signer:
    return Ed25519Signer(Ed25519PrivateKey.from_private_bytes(bytes([byte]) * 32))


ROOT_KEY, GLOBAL_KEY, ZONE_KEY = key_of(1), key_of(2), key_of(3)


class Controller:
    """A controller without a log: its state, and what it committed."""

    def __init__(self, domain: str, signer: Ed25519Signer) -> None:
        self.identity = Identity(f"{domain}-control", domain, 1)
        self.signer = signer
        self.state = State(self.identity.controller, Ed25519Verifier(), ROOT_KEY.public_key)
        self.clock = HybridClock()
        self.commits: list[tuple[event_pb2.Commit, bytes]] = []

    def proposal(self, wall_ms: int) -> Proposal:
        return Proposal(self.state, self.identity, self.clock, self.signer, wall_ms)

    def commit(self, proposal: Proposal) -> None:
        commit_id = len(self.commits).to_bytes(16, "big")
        built = proposal.build(commit_id, "r1", 7)
        self.state.apply(built.commit.offset, built.commit, built.prepared)
        self.commits.append((built.commit, built.data))

    def write_policy(self, version: str, wall_ms: int, *, optimistic: bool = False) -> Write:
        proposal = self.proposal(wall_ms)
        spec = policy_pb2.PolicySpec(version=version)
        write = proposal.write(*POLICY, spec, principal="user:alice", optimistic=optimistic)
        self.commit(proposal)
        return write

    def send_all(self, receiver: Controller, wall_ms: int) -> None:
        proposal = receiver.proposal(wall_ms)
        for commit, _ in list(self.commits):
            for run in commit.runs:
                if run.stream.controller != receiver.identity.controller:
                    receipt = proposal.receive(self.identity.controller, run)
                    assert receipt in (Receipt.TAKEN, Receipt.REPEATED)
        receiver.commit(proposal)


def begin_federation(root: Controller) -> authority_pb2.Genesis:
    genesis = make_genesis(ROOT_KEY, GLOBAL_KEY, root.identity.controller, GLOBAL)
    proposal = root.proposal(BEGIN_MS)
    proposal.write(GLOBAL, f"domains/{GLOBAL}", "genesis", genesis, principal="controller:root")
    root.commit(proposal)
    proposal = root.proposal(BEGIN_MS + 1)

    def write(domain: str, subject: str, aspect: str, body: object, /) -> Write:
        return proposal.write(domain, subject, aspect, body, principal="controller:root")

    declaration = DomainDeclaration(
        ZONE,
        domain_pb2.DomainSpec(parent=GLOBAL, kind=domain_pb2.DOMAIN_KIND_EDGE_ZONE),
        "edge-zone-a1-control",
        authority_pb2.AUTHORITY_LEVEL_LOCAL,
        "edge-zone-a1-control",
        ZONE_KEY.public_key,
    )
    declare_domain(write, declaration, root.state.authority.term_of(GLOBAL), BEGIN_MS + 1)
    root.commit(proposal)
    return genesis


def dots(write: Write) -> str:
    return ", ".join(f"{d.origin.controller}:{d.sequence}" for d in write.context) or "nothing"


def describe(label: str, write: Write) -> dict[str, str]:
    return {
        f"{label}: number": str(write.sequence),
        f"{label}: stamp": f"{write.stamp:#x}",
        f"{label}: milliseconds": str(wall_ms_of(write.stamp)),
        f"{label}: context": dots(write),
        f"{label}: term": ".".join(map(str, write.term)),
    }


@functools.cache
def worked_example() -> dict[str, str]:
    """Every label of the document with the value the code gives."""
    root, zone = Controller(GLOBAL, GLOBAL_KEY), Controller(ZONE, ZONE_KEY)
    genesis = begin_federation(root)
    root.send_all(zone, BEGIN_MS + 10)
    stream = StreamId(ZONE, Origin("edge-zone-a1-control", 1), Lane.CONTROL)
    first = zone.write_policy("v1", BEGIN_MS + 1_000)
    commit, data = zone.commits[-1]
    zone.send_all(root, BEGIN_MS + 1_010)

    mine = zone.write_policy("v2-zone", BEGIN_MS + 60_000)
    theirs = root.write_policy("v2-global", BEGIN_MS + 61_000, optimistic=True)
    zone.send_all(root, BEGIN_MS + 90_000)
    root.send_all(zone, BEGIN_MS + 90_000)
    siblings = zone.state.siblings(POLICY)
    winner = zone.state.winner(POLICY)
    assert winner is not None
    assert {s.dot for s in siblings} == {mine.dot, theirs.dot}
    assert root.state.winner(POLICY) == winner
    (due,) = zone.state.conflicts.records_due()
    etag = etag_of(siblings, winner)

    restored = zone.write_policy("v2-zone", BEGIN_MS + 120_000)
    assert zone.state.siblings(POLICY) == (restored,)
    run = commit.runs[0]
    return {
        "root public key": ROOT_KEY.public_key.hex(),
        "global-control's key id": GLOBAL_KEY.key_id,
        "edge-zone-a1-control's key id": ZONE_KEY.key_id,
        "genesis message": f"{len(genesis_message(genesis))} bytes",
        "genesis signature": genesis.signature.hex(),
        "h_0": chain_start(stream).hex(),
        "first event": first.raw.hex(),
        "h_1": run.seal.chain_hash.hex(),
        "seal message": seal_message(stream, 1, run.seal.chain_hash).hex(),
        "seal signature": run.seal.signature.hex(),
        "hash after global's first commit": hash_after(EMPTY_HASH, root.commits[0][1]).hex(),
        "zone's second commit": f"{len(data)} bytes",
        **describe("zone's write", mine),
        **describe("global's write", theirs),
        "winner": f"{winner.origin.controller}:{winner.sequence}",
        "etag": etag,
        "conflict id": due.conflict_id,
        "record's siblings": record_siblings(zone, due),
        **describe("restored", restored),
        "restored: resolves": ", ".join(
            f"{d.origin.controller}:{d.sequence}" for d in restored.resolves
        ),
    }


def record_siblings(zone: Controller, due: DueConflict) -> str:
    record = conflict_record(due, zone.state.rank, resolved=False)
    return ", ".join(f"{s.controller}:{s.sequence}" for s in record.siblings)


def shown_example() -> dict[str, str]:
    """The rows of the document's tables below "A worked example"."""
    text = PROTOCOL.read_text().split("## A worked example\n", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| ([^|`]+) \| `([^`|]*)` \|$", text, re.MULTILINE)
    assert len(rows) == len(dict(rows)), "a label stands twice"
    return dict(rows)


@pytest.mark.parametrize("label", worked_example())
def test_document_shows_what_the_code_makes(label: str) -> None:
    assert shown_example().get(label) == worked_example()[label]


def test_document_shows_nothing_else() -> None:
    assert set(shown_example()) == set(worked_example())
