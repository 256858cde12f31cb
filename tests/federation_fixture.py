"""Controllers in memory for unit tests: a real state, real proposals and real Ed25519 keys, without a log on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from controller.signing import Ed25519Signer, Ed25519Verifier
from federation.bounds import Foreknown
from federation.clock import HybridClock
from federation.codec import Write
from federation.domains import DomainDeclaration, declare_domain
from federation.expulsion import (
    Position,
    domain_below,
    new_key,
    position_now,
    seal_of,
    streams_below,
)
from federation.identifiers import StreamId
from federation.keys import genesis_message
from federation.proposal import Identity, Proposal
from federation.receipt import Receipt
from federation.state import Applied, State
from souverix.event.v1 import event_pb2
from souverix.federation.v1 import authority_pb2
from souverix.fleet.v1 import domain_pb2
from souverix.policy.v1 import policy_pb2

T = TypeVar("T")

ROOT = "global"
START_MS = 1_700_000_000_000

#: Folds after which a state must stand: each settles what controllers one level further down wrote.
MAX_FOLDS = 8


def genesis_of(
    root_signer: Ed25519Signer, controller: str, signer: Ed25519Signer, domain: str = ROOT
) -> authority_pb2.Genesis:
    """The signed beginning of a federation."""
    genesis = authority_pb2.Genesis(
        domain=domain,
        authority=authority_pb2.AuthorityRecord(
            domain=domain,
            level=authority_pb2.AUTHORITY_LEVEL_GLOBAL,
            master_of_record=controller,
            term=1,
            since=[1],
            controller=controller,
        ),
        key=authority_pb2.KeyGrant(
            controller=controller,
            domain=domain,
            key_id=signer.key_id,
            public_key=signer.public_key,
        ),
    )
    genesis.signature = root_signer.sign(genesis_message(genesis))
    return genesis


class MemoryController:
    """One controller whose log is a list of commits. Time moves only when a test moves `now_ms`."""

    def __init__(
        self, name: str, domain: str, root_signer: Ed25519Signer, incarnation: int = 1
    ) -> None:
        self.signer = Ed25519Signer.generate()
        self.identity = Identity(name, domain, incarnation)
        self.state = State(name, Ed25519Verifier(), root_signer.public_key)
        self.clock = HybridClock()
        self.now_ms = START_MS
        self.commits: list[event_pb2.Commit] = []
        self.root_signer = root_signer
        self.last_applied: Applied | None = None

    @property
    def name(self) -> str:
        """The controller's id."""
        return self.identity.controller

    def submit(self, decide: Callable[[Proposal], T]) -> T:
        """Commits what `decide` drafts; whatever it raises is raised, and nothing is committed."""
        proposal = Proposal(self.state, self.identity, self.clock, self.signer, self.now_ms)
        value = decide(proposal)
        if not proposal.empty:
            built = proposal.build(len(self.commits).to_bytes(16, "big"), "r1", 1)
            self.last_applied = self.state.apply(built.commit.offset, built.commit, built.prepared)
            self.commits.append(built.commit)
            if self.state.grounds.outdated:
                self.state = self.replayed()
        return value

    def receive_from(self, other: MemoryController) -> None:
        """Takes in, in one commit each, every run of the other's log that is not held here yet."""
        for commit in other.commits:
            for run in commit.runs:
                if run.stream.controller != self.name:
                    self.receive(other.name, run)

    def receive(self, peer: str, run: event_pb2.Run) -> None:
        """Takes in one run."""
        receipt = self.submit(lambda proposal: proposal.receive(peer, run))
        assert receipt in (Receipt.TAKEN, Receipt.REPEATED), receipt

    def write_policy(
        self, domain: str, version: str, *, subject: str = "policies/p1", **claims: Any
    ) -> Write:
        """Writes a policy's version; `claims` as those of `Proposal.write`."""
        claims.setdefault("principal", "user:test")
        spec = policy_pb2.PolicySpec(version=version)
        return self.submit(lambda p: p.write(domain, subject, "policy", spec, **claims))

    def replayed(self) -> State:
        """A state made anew from the log's bytes, as after a restart: until it rests on nothing but the log."""
        foreknown = Foreknown()
        for _ in range(MAX_FOLDS):
            state = State(self.name, Ed25519Verifier(), self.root_signer.public_key, foreknown)
            for commit in self.commits:
                again = event_pb2.Commit.FromString(commit.SerializeToString())
                state.apply(commit.offset, again)
            if state.grounds.stand:
                return state
            foreknown = state.grounds.to_foreknow()
        raise AssertionError(f"the state does not stand after {MAX_FOLDS} folds")

    def rotate_key(self) -> None:
        """Goes on under another signing key."""
        fresh = Ed25519Signer.generate()
        self.submit(lambda p: p.succeed(fresh.public_key, principal=f"controller:{self.name}"))
        self.signer = fresh

    def expel(
        self, controller: str, positions: Mapping[StreamId, Position] | None = None
    ) -> authority_pb2.StreamSealed:
        """Seals the streams of a controller below; at what is good here now, unless it is said where."""
        state = self.state
        domain = domain_below(state, self.identity.domain, controller)
        if positions is None:
            positions = {
                stream: position_now(state.streams[stream])
                for stream in streams_below(state, controller, domain)
            }
        sealed = seal_of(state, controller, domain, positions, "compromised")
        self.submit(
            lambda p: p.write(
                domain, f"controllers/{controller}", "stream_sealed", sealed, principal="user:test"
            )
        )
        return sealed

    def grant_key(self, controller: str, public_key: bytes) -> None:
        """Grants a controller below a key to go on under."""
        domain = domain_below(self.state, self.identity.domain, controller)
        grant = new_key(self.state, controller, domain, public_key)
        self.submit(
            lambda p: p.write(
                domain, f"controllers/{controller}", "key_grant", grant, principal="user:test"
            )
        )

    def go_on(self) -> None:
        """Goes on under the next incarnation, with the signer of the moment."""
        incarnation = self.state.grounds.bounds.sealed_incarnation(self.name) + 1
        self.identity = Identity(self.name, self.identity.domain, incarnation)

    def declare(
        self,
        domain: str,
        parent: str,
        controller: MemoryController | None = None,
        master: str = "",
        autonomy: authority_pb2.Autonomy | None = None,
        level: authority_pb2.AuthorityLevel = authority_pb2.AUTHORITY_LEVEL_LOCAL,
    ) -> None:
        """Declares a domain below one this controller is master of."""
        served_by = controller.name if controller is not None else ""
        declaration = DomainDeclaration(
            domain=domain,
            spec=domain_pb2.DomainSpec(parent=parent),
            master_of_record=master or served_by or self.name,
            level=level,
            controller=served_by,
            public_key=controller.signer.public_key if controller is not None else b"",
            autonomy=autonomy,
        )

        def decide(proposal: Proposal) -> None:
            declare_domain(
                lambda d, s, a, body: proposal.write(d, s, a, body, principal="user:test"),
                declaration,
                self.state.authority.term_of(parent),
                self.now_ms,
            )

        self.submit(decide)


def root_controller(name: str = "global-control") -> MemoryController:
    """A new federation: its root's controller, the genesis committed."""
    root = MemoryController(name, ROOT, Ed25519Signer.generate())
    genesis = genesis_of(root.root_signer, name, root.signer)
    root.submit(
        lambda proposal: proposal.write(
            ROOT, f"domains/{ROOT}", "genesis", genesis, principal=f"controller:{name}"
        )
    )
    return root


def controller_below(
    parent: MemoryController,
    name: str,
    domain: str,
    autonomy: authority_pb2.Autonomy | None = None,
) -> MemoryController:
    """A controller whose domain its parent has declared, and who has received that."""
    child = MemoryController(name, domain, parent.root_signer)
    parent.declare(domain, parent.identity.domain, child, autonomy=autonomy)
    child.receive_from(parent)
    return child
