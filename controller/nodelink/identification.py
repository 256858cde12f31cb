"""Whether the agent that greets is the node's: the certificate it comes with, the key that is pinned, the proof that it
holds that key, and the certificate that vouches for it. Owns these checks, their order, and the incident that each
failure leaves with the node; pins no key and opens no link.
"""

from __future__ import annotations

import time
from typing import NoReturn

from controller.bearer import Bearer, current_bearer
from controller.command.targets import delivering_controller
from controller.journal import Journal
from controller.nodelink.agent_keys import pinned_key
from controller.nodelink.greeting import (
    UNWELCOME_RETRY_S,
    Identified,
    NotWelcome,
    find_home,
    waiting,
)
from controller.nodelink.incidents import Incident
from controller.nodelink.link import Link
from controller.nodelink.proof import proof_message, voucher_message
from controller.nodelink.reception import Reception
from controller.nodelink.reports import highest_report
from controller.nodelink.voucher import VoucherRefused, check_voucher
from controller.services.fleet_rules import freshness_of
from controller.twin.facts import Home, home_of
from federation.chain import key_id_of
from souverix.fleet.v1 import return_pb2
from souverix.nodelink.v1 import nodelink_pb2
from trust.identity import Identity, Kind


class Identification:
    """The checks of one greeting. `peer` is where the agent calls from, `relay` the relay it comes through, if any."""

    def __init__(
        self,
        desk: Reception,
        journal: Journal,
        hello: nodelink_pb2.AgentHello,
        peer: str,
        relay: str,
    ) -> None:
        self._desk = desk
        self._journal = journal
        self._hello = hello
        self._peer = peer
        self._relay = relay
        self._is_known = True

    async def examine(self) -> Home:
        """Where the node lives, or would live. Raises `NotWelcome` for an agent that need not prove anything."""
        desk, hello, now_s = self._desk, self._hello, time.monotonic()
        await self._check_bearer()
        facts = desk.replica.state
        try:
            home = find_home(facts, desk.controller, hello.node)
        except NotWelcome as refusal:
            if refusal.reason == nodelink_pb2.LINK_END_MOVED:
                await self._note_elsewhere(now_s)
            raise
        if home is None:
            self._is_known = False
            return desk.enrolment.check(self._journal, hello, now_s)
        if desk.bearers is None:
            # By TLS it is heard first who vouches for another key: a certificate may have been stolen.
            await self._check_pinned(home, None)
        highest = highest_report(facts, home.domain, hello.node, hello.source)
        wait_s = desk.admission.ask(hello.node, is_behind=waiting(hello, highest) > 0, now_s=now_s)
        if wait_s > 0:
            raise NotWelcome(
                nodelink_pb2.LINK_END_BUSY,
                f"many nodes return at once; a place is kept for {hello.node} in {wait_s:.1f} s",
                wait_s,
            )
        return home

    async def prove(self, home: Home, nonce: bytes, proof: nodelink_pb2.AgentProof) -> Identified:
        """The agent, once its answer to the challenge holds. Raises `NotWelcome`."""
        hello = self._hello
        words = (self._desk.controller, hello.node, hello.source, hello.run)
        key_id = key_id_of(hello.public_key)
        if not self._desk.verifier.verify(
            hello.public_key, proof_message(*words, nonce), proof.signature
        ):
            evidence = f"the proof is not signed with key {key_id}"
            await self._refuse(home, return_pb2.INCIDENT_KIND_PROOF_FAILED, evidence, key_id)
        if self._desk.bearers is None:
            return Identified(hello, home, self._is_known, None)
        message = voucher_message(*words, hello.public_key, nonce)
        try:
            vouched = check_voucher(self._desk.bearers, proof.voucher, message)
        except VoucherRefused as refusal:
            kind = return_pb2.INCIDENT_KIND_VOUCHER_REFUSED
            await self._refuse(home, kind, refusal.evidence, key_id, reason=refusal.reason)
        named = vouched.identity
        if named.name != hello.node or not self._is_of(named, (Kind.NODE, Kind.RELAY), home.domain):
            kind = return_pb2.INCIDENT_KIND_WRONG_CERTIFICATE
            await self._refuse(home, kind, _words_of(named), named.name, vouched=vouched)
        await self._check_pinned(home, vouched)
        return Identified(hello, home, self._is_known, vouched)

    async def refuse_key(self, home: Home, pinned: bytes, vouched: Bearer | None) -> NoReturn:
        """Sends away an agent whose key is not the pinned one, whoever vouches for it. Raises `NotWelcome`."""
        hello = self._hello
        offered = key_id_of(hello.public_key)
        evidence = f"key {offered} was offered, {key_id_of(pinned)} is pinned"
        kind, reason, linked = return_pb2.INCIDENT_KIND_WRONG_KEY, "", ""
        if vouched is not None:
            evidence += (
                f"; certificate {vouched.fingerprint[:16]} of {vouched.identity.principal} vouches "
                "for the one offered"
            )
            alive = self._alive()
            if alive is not None:
                kind, reason = return_pb2.INCIDENT_KIND_CERTIFICATE_COPIED, "ANOTHER_KEY"
                linked = alive.peer
                evidence += f", and the node's agent is linked meanwhile, from {linked}"
        advice = (
            "if the node's agent lost its state directory, an operator gives the old key up with "
            f"'souverixctl reset-key {hello.node}'"
        )
        await self._refuse(
            home,
            kind,
            evidence,
            offered,
            reason=reason,
            linked=linked,
            vouched=vouched,
            advice=advice,
        )

    async def _check_bearer(self) -> None:
        """Refuses who comes with the certificate of another node. A relay's may carry the nodes of its domain."""
        bearer = current_bearer()
        if bearer is None:
            return
        facts, named, hello = self._desk.replica.state, bearer.identity, self._hello
        home = home_of(facts, f"nodes/{hello.node}")
        domain = home.domain if home else self._desk.replica.config.controller.domain
        is_own = named.name == hello.node and self._is_of(named, (Kind.NODE,), domain)
        if is_own or self._is_of(named, (Kind.RELAY,), domain):
            return
        self._is_known = home is not None
        await self._refuse(
            home or Home(domain, 0),
            return_pb2.INCIDENT_KIND_WRONG_CERTIFICATE,
            _words_of(named),
            named.name,
            vouched=bearer,
        )

    async def _note_elsewhere(self, now_s: float) -> None:
        """The node lives elsewhere, and its certificate is shown here: raised when it is linked there meanwhile."""
        desk, node, bearer = self._desk, self._hello.node, current_bearer()
        home = home_of(desk.replica.state, f"nodes/{node}")
        if bearer is None or home is None or bearer.identity.kind is not Kind.NODE:
            return
        if freshness_of(desk.replica).reachable(home.domain) is not True:
            return
        facts, run = desk.replica.state, self._hello.run
        if not desk.elsewhere.is_at_two_places(facts, home.domain, node, run, now_s):
            return
        there = delivering_controller(desk.replica.state.authority, home.domain)
        incident = Incident(
            home.domain,
            node,
            return_pb2.INCIDENT_KIND_CERTIFICATE_COPIED,
            f"an agent with the node's certificate calls {desk.controller} from {self._peer}, while another run of "
            f"the node's agent is linked at {there}",
            self._peer,
            "ANOTHER_CONTROLLER",
            key_id_of(self._hello.public_key),
            certificate=bearer.fingerprint,
        )
        await desk.note(incident, self._journal)

    def _is_of(self, named: Identity, kinds: tuple[Kind, ...], domain: str) -> bool:
        """Tells whether an identity is of one of these kinds, and its domain is this one or lies above it."""
        authority = self._desk.replica.state.authority
        reaches = domain == named.domain or authority.is_within(domain, named.domain)
        return named.kind in kinds and reaches

    async def _check_pinned(self, home: Home, vouched: Bearer | None) -> None:
        pinned = pinned_key(self._desk.replica.state, home.domain, self._hello.node)
        if pinned and pinned != self._hello.public_key:
            await self.refuse_key(home, pinned, vouched)

    def _alive(self) -> Link | None:
        """The node's link, while its agent is heard."""
        held = self._desk.links.get(self._hello.node)
        alive = held is not None and self._desk.links.is_alive(held, time.monotonic())
        return held if alive else None

    async def _refuse(
        self,
        home: Home,
        kind: return_pb2.IncidentKind,
        evidence: str,
        key_id: str,
        *,
        reason: str = "",
        linked: str = "",
        vouched: Bearer | None = None,
        advice: str = "",
    ) -> NoReturn:
        """Leaves the incident with the node, if it is known, and sends the agent away. Raises `NotWelcome`."""
        if self._is_known:
            incident = Incident(
                home.domain,
                self._hello.node,
                kind,
                evidence,
                self._peer,
                reason,
                key_id,
                self._relay,
                linked,
                vouched.fingerprint if vouched is not None else "",
            )
            await self._desk.note(incident, self._journal)
        word = reason or return_pb2.IncidentKind.Name(kind).removeprefix("INCIDENT_KIND_")
        message = f"{word}: this agent is not taken for the one of {self._hello.node}: {evidence}"
        raise NotWelcome(
            nodelink_pb2.LINK_END_IDENTITY,
            f"{message}; {advice}" if advice else message,
            UNWELCOME_RETRY_S,
        )


def _words_of(named: Identity) -> str:
    return f"the certificate is of {named.principal} of domain {named.domain}"
