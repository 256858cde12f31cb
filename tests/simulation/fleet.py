"""A fleet of simulated controllers in a tree of authority. Owns its shape, wall clocks, elections and sessions."""

from __future__ import annotations

from federation.backoff import Backoff
from federation.barred import why_barred
from federation.clock import MAX_AHEAD_MS, stamp_of
from federation.codec import stream_from_message
from federation.identifiers import Origin
from federation.keys import genesis_message
from federation.proposal import Built, Proposal
from federation.session_settings import PeerRole
from federation.state import State
from souverix.event.v1 import event_pb2
from souverix.federation.v1 import authority_pb2
from tests.simulation.endpoint import Endpoint
from tests.simulation.history import History
from tests.simulation.keys import ROOT, KeyedHashSigner, signer_of
from tests.simulation.network import Connection, Link, Network
from tests.simulation.replica import Replica
from tests.simulation.simulated_log import SimulatedLog
from tests.simulation.world import EPOCH_MS, World

#: Deepest controller below the root.
MAX_DEPTH = 3

#: Sizes of fleets: small ones find most, and more a second.
SIZES = (3, 3, 3, 4, 4, 4, 5, 5, 5, 5, 5, 6, 6, 7, 9, 15)

#: Domains that clients of one fleet write in, at most: few, so that writers meet.
MAX_CONTESTED = 2

#: Quick returns: a simulated fault lasts seconds, not minutes.
REDIAL = Backoff(initial_ms=40, maximum_ms=500)

#: How often sessions are told that time has passed.
TICK_MS = 500


class Controller:
    """One controller: its log, its replicas, its wall clock."""

    def __init__(self, fleet: Fleet, number: int, parent: int | None) -> None:
        self.fleet = fleet
        self.number = number
        self.parent = parent
        self.name = f"c{number}"
        self.domain = f"d{number}"
        self.parent_domain = f"d{parent}" if parent is not None else ""
        #: Its signing keys, the newest last; the log says which is in force.
        self.signers = [signer_of(self.name)]
        self.log = SimulatedLog(self.name)
        world = fleet.world
        chance = world.happens
        self.first_master = self.name
        above = parent
        while above is not None and chance(0.45):
            self.first_master = f"c{above}"
            above = fleet.controllers[above].parent
        self.autonomy = authority_pb2.Autonomy(
            can_operate_isolated=chance(0.8),
            can_modify_policies=chance(0.8),
            can_deploy_versions=chance(0.8),
        )
        self.keep_open = chance(0.8)
        self.batch_events = 0 if chance(0.7) else world.between(1, 4)
        self.read_commits = 64 if chance(0.7) else world.between(1, 4)
        self.credit_bytes = 0 if chance(0.6) else world.between(1, 2000)
        self.dial_attempts = 0
        self.gaps = 0
        self.skew_ms = world.between(-300, 300)
        self.frozen_at_ms: int | None = None
        self.highest_wall_ms = 0
        self._dialling = False
        self.replicas = [Replica(self, n) for n in range(2 if chance(0.4) else 1)]

    def wall_ms(self) -> int:
        """What the controller's clock shows."""
        shown = self.frozen_at_ms
        if shown is None:
            shown = EPOCH_MS + self.fleet.world.now_ms + self.skew_ms
        self.highest_wall_ms = max(self.highest_wall_ms, shown)
        return shown

    def signer_for(self, state: State) -> KeyedHashSigner:
        """The newest key that the log says is in force."""
        for signer in reversed(self.signers):
            known = state.keys.knows(self.name, signer.key_id)
            if known and not why_barred(state, self.origin(state), self.domain, signer.key_id):
                return signer
        return self.signers[0]

    def origin(self, state: State) -> Origin:
        """Under which name it writes: a sealed incarnation is followed by the next."""
        return Origin(self.name, state.grounds.bounds.sealed_incarnation(self.name) + 1)

    def next_signer(self) -> KeyedHashSigner:
        """A new key, which lies ready."""
        signer = signer_of(f"{self.name} {len(self.signers)}")
        self.signers.append(signer)
        return signer

    @property
    def master(self) -> Replica | None:
        """The replica that holds the newest mastership, if it lives."""
        for replica in self.replicas:
            if replica.is_master and replica.token == self.log.token and replica.alive:
                return replica
        return None

    def parse(self, data: bytes) -> event_pb2.Commit:
        """A commit as read from the log."""
        return event_pb2.Commit.FromString(data)

    def elect(self) -> None:
        """The lease has run out, or a replica has come: one that runs becomes master, unless one is."""
        master = self.master
        if master is not None and not master.paused:
            return
        running = [r for r in self.replicas if r.alive and not r.paused]
        if running:
            self.fleet.world.chance.choice(running).become_master()
            self.dial_soon()

    def note_receipts(self, built: Built) -> None:
        """Remembers at the root what honest clocks could have stamped when a run came (I7)."""
        if self.parent is not None:
            return
        bound = max(built.commit.clock, stamp_of(built.commit.time_ms + MAX_AHEAD_MS))
        for run in built.commit.runs:
            stream = stream_from_message(run.stream)
            if stream.origin.controller != self.name:
                self.fleet.history.note_received_at_root(stream, run.seal.sequence, bound)

    # Sessions with the parent.

    @property
    def uplink(self) -> Endpoint | None:
        """The session of the present master with the parent."""
        master = self.master
        if master is not None:
            for endpoint in master.endpoints:
                if endpoint.role is PeerRole.PARENT:
                    return endpoint
        return None

    @property
    def is_linked(self) -> bool:
        """Tells whether events flow between this controller and its parent, as both masters see it."""
        uplink = self.uplink
        if uplink is None or not uplink.is_syncing or self.parent is None:
            return False
        above = self.fleet.controllers[self.parent].master
        return above is not None and any(
            e.child == self.number and e.is_syncing for e in above.endpoints
        )

    def level_ends(self) -> list[Endpoint]:
        """Both ends of the link to the parent, as far as they stand."""
        above = self.fleet.controllers[self.parent].master if self.parent is not None else None
        ends = [e for e in above.endpoints if e.child == self.number] if above is not None else []
        return [*ends, *([self.uplink] if self.uplink is not None else [])]

    def dial_soon(self) -> None:
        """Dials the parent after a while, unless it does so already."""
        if self.parent is None or self._dialling:
            return
        self._dialling = True
        world = self.fleet.world
        delay_ms = REDIAL.delay_ms(self.dial_attempts, world.chance.random())
        if not self.keep_open and not self.fleet.healed:
            delay_ms += world.between(0, 600)
        self.dial_attempts += 1
        world.after(delay_ms, self._dial)

    def _dial(self) -> None:
        self._dialling = False
        master = self.master
        if master is None or self.uplink is not None or self.parent is None:
            return
        parent = self.fleet.controllers[self.parent]
        above = parent.master
        link = self.fleet.network.links[self.number]
        if master.paused:
            master.when_awake(self.dial_soon)
            return
        if above is None or not link.is_clear:
            self.dial_soon()
            return
        connection = Connection(self.fleet.world, link)
        keep_open = self.keep_open or self.fleet.healed
        ends = [
            Endpoint(
                replica,
                connection,
                role,
                {peer.name: peer.domain},
                keep_open=keep_open,
                batch_events=self.batch_events,
            )
            for replica, role, peer in (
                (master, PeerRole.PARENT, parent),
                (above, PeerRole.CHILD, self),
            )
        ]
        for end in reversed(ends):
            end.start()

    def session_ended(self, endpoint: Endpoint) -> None:
        """A session of one of the replicas is over."""
        if endpoint.role is PeerRole.PARENT and endpoint.replica is self.master:
            self.dial_soon()


class Fleet:
    """Controllers in a tree: number 0 is the root."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.history = History()
        self.healed = False
        chosen = world.chance.choice(SIZES)
        parents = [0]
        depths = [0]
        for _ in range(1, chosen):
            parent = world.between(0, len(parents) - 1)
            while depths[parent] >= MAX_DEPTH:
                parent = parents[parent]
            parents.append(parent)
            depths.append(depths[parent] + 1)
        self.parents = parents
        self.controllers: list[Controller] = []
        for number in range(chosen):
            self.controllers.append(Controller(self, number, parents[number] if number else None))
        self.contested = [
            world.chance.choice(self.controllers[1:])
            for _ in range(world.between(1, MAX_CONTESTED))
        ]
        self.by_name = {c.name: c for c in self.controllers}
        self.controller_of_domain = {c.domain: c for c in self.controllers}
        links = {n: Link(n, world.between(1, 30), world.between(0, 20)) for n in range(1, chosen)}
        self.network = Network(world, links, parents)

    @property
    def root(self) -> Controller:
        """The controller of the root domain."""
        return self.controllers[0]

    def start(self) -> None:
        """Elects the first masters, begins the federation at the root, and lets the others dial."""
        for controller in self.controllers:
            self.world.after(self.world.between(0, 100), controller.elect)
        self.world.after(101, self._begin)
        self.world.after(TICK_MS, self._tick)

    def is_linked(self, child: int) -> bool:
        """Tells whether events flow over the link of a child."""
        return self.controllers[child].is_linked

    def _begin(self) -> None:
        root = self.root
        master = root.master
        if master is None or not master.alive:
            self.world.after(50, self._begin)
            return
        genesis = authority_pb2.Genesis(
            domain=root.domain,
            authority=authority_pb2.AuthorityRecord(
                domain=root.domain,
                level=authority_pb2.AUTHORITY_LEVEL_GLOBAL,
                master_of_record=root.name,
                term=1,
                since=[1],
                controller=root.name,
            ),
            key=authority_pb2.KeyGrant(
                controller=root.name,
                domain=root.domain,
                key_id=root.signers[0].key_id,
                public_key=root.signers[0].public_key,
            ),
        )
        genesis.signature = ROOT.sign(genesis_message(genesis))

        def write(proposal: Proposal) -> None:
            if root.domain not in proposal.state.authority.records:
                proposal.write(
                    root.domain, f"domains/{root.domain}", "genesis", genesis, principal="operator"
                )

        def done(value: None, error: Exception | None) -> None:
            if error is not None:
                self.world.after(50, self._begin)

        master.submit(write, done)

    def _tick(self) -> None:
        self.tick()
        if not self.healed:
            self.world.after(TICK_MS, self._tick)

    def tick(self) -> None:
        """Tells all sessions that time has passed."""
        for controller in self.controllers:
            for replica in controller.replicas:
                for endpoint in list(replica.endpoints):
                    replica.when_awake(endpoint.tick)
