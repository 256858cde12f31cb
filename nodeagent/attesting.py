"""Answers challenges to attest: has the host measured, and the measurements signed.

Owns when that is done, one at a time, the newest challenge only, and what a statement holds. Never sends: the link
does, when it may.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nodeagent.attester import Attester, Binding, Quote
from nodeagent.clock import Clock, timestamp
from nodeagent.configuration import ConfigurationStore
from nodeagent.errors import StateUnavailable
from nodeagent.identity import Identity
from nodeagent.inventory import Host
from nodeagent.logs import EventLog
from nodeagent.measurements import UNREADABLE, Part, Register, files_register, in_order
from nodeagent.sbom import sbom_value
from nodeagent.waiting import first_set
from souverix.nodelink.v1 import nodelink_pb2


@dataclass(frozen=True, slots=True)
class _Challenge:
    controller: str
    nonce: bytes


class Attesting:
    """One node's answers. `ready` is called with the nonce of a challenge whose statement is there."""

    def __init__(
        self,
        attester: Attester,
        host: Host,
        identity: Identity,
        configuration: ConfigurationStore,
        *,
        run: str,
        files: Sequence[str],
        clock: Clock,
        ready: Callable[[bytes], None],
    ) -> None:
        self._attester = attester
        self._host = host
        self._identity = identity
        self._configuration = configuration
        self._run = run
        self._files = tuple(files)
        self._clock = clock
        self._ready = ready
        self._log = EventLog(identity.node)
        self._challenge: _Challenge | None = None
        self._asked = asyncio.Event()
        self._statement: nodelink_pb2.AttestationStatement | None = None

    def challenged(self, controller: str, nonce: bytes) -> None:
        """A controller wants a statement; what an earlier challenge asked for is not wanted any more."""
        self._challenge = _Challenge(controller, nonce)
        self._asked.set()

    def statement(self, nonce: bytes) -> nodelink_pb2.AttestationStatement | None:
        """The statement for a challenge, or None when it is not there any more."""
        held = self._statement
        return held if held is not None and held.nonce == nonce else None

    async def run(self, stop: asyncio.Event) -> None:
        """Answer until `stop` is set."""
        while not stop.is_set():
            await first_set(stop, self._asked, timeout_s=None)
            self._asked.clear()
            challenge, self._challenge = self._challenge, None
            if challenge is None or stop.is_set():
                continue
            try:
                self._statement = await self._made(challenge)
            except StateUnavailable as error:
                self._log.error("not_attested", cause=error)
                continue
            self._ready(challenge.nonce)

    async def _made(self, challenge: _Challenge) -> nodelink_pb2.AttestationStatement:
        time = timestamp(self._clock.wall_us())
        binding = Binding(
            challenge.controller,
            self._identity.node,
            self._identity.source,
            self._run,
            challenge.nonce,
            time.seconds,
            time.nanos,
        )
        # Read here: the database belongs to this thread.
        configuration = self._measured_configuration()
        quote = await asyncio.to_thread(self._quoted, binding, configuration)
        statement = nodelink_pb2.AttestationStatement(
            nonce=challenge.nonce,
            time=time,
            scheme=quote.scheme,
            public_key=quote.public_key,
            signature=quote.signature,
        )
        for register in quote.registers:
            added = statement.registers.add(name=register.name, value=register.value)
            for part in register.parts:
                added.events.add(name=part.name, digest=part.digest)
        return statement

    def _quoted(self, binding: Binding, configuration: Register) -> Quote:
        """Measure, and have it signed. Blocks on the disk."""
        registers = [*self._host.registers(), configuration, self._measured_packages()]
        if self._files:
            registers.append(files_register(self._files))
        return self._attester.quote(binding, in_order(registers))

    def _measured_configuration(self) -> Register:
        """The configuration in force; without a part where none was ever applied."""
        try:
            in_force = self._configuration.in_force()
        except StateUnavailable:
            return Register("configuration", (Part("unreadable", UNREADABLE),))
        if in_force is None:
            return Register("configuration", ())
        digest = bytes.fromhex(in_force.digest.removeprefix("sha256:"))
        return Register("configuration", (Part(in_force.name, digest),))

    def _measured_packages(self) -> Register:
        """The SBOM of the host, by its digest."""
        sbom = sbom_value(self._host.packages(), self._host.inventory().os)
        digest = UNREADABLE
        if sbom is not None:
            digest = bytes.fromhex(sbom.reference.digest.removeprefix("sha256:"))
        return Register("packages", (Part("sbom", digest),))
