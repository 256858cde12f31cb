"""The first frame of each side of a session: who speaks, and whether the other may go on. Owns versions, the credit a
peer starts with, and the grounds of refusal.
"""

from __future__ import annotations

from dataclasses import dataclass

from federation.session_settings import Settings
from federation.state import State
from souverix.sync.v1 import sync_pb2

#: Versions of the protocol spoken here, best first.
VERSIONS = (1,)

#: Bytes of runs a peer may send before they are durable here: eight frames keep both disks busy, and bound memory.
CREDIT_BYTES = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a peer may not go on."""

    reason: int
    message: str
    retry_after_ms: int = 0


def hello_of(state: State, settings: Settings, clock: int) -> sync_pb2.Hello:
    """This side's greeting."""
    return sync_pb2.Hello(
        versions=VERSIONS,
        controller=settings.controller,
        replica=settings.replica,
        domain=settings.domain,
        incarnation=settings.incarnation,
        term=state.authority.term_of(settings.domain),
        clock=clock,
        credit_bytes=CREDIT_BYTES,
        subscriptions=settings.subscriptions,
        backlog_events=settings.backlog_events,
    )


def refusal_of(hello: sync_pb2.Hello, settings: Settings) -> Refusal | None:
    """Judges the other side's greeting; None when it may go on."""
    if not set(hello.versions) & set(VERSIONS):
        return Refusal(sync_pb2.GOODBYE_REASON_VERSION, f"versions {VERSIONS} are spoken here")
    expected = settings.peers.get(hello.controller)
    if expected is None or (expected and expected != hello.domain):
        return Refusal(
            sync_pb2.GOODBYE_REASON_UNKNOWN_PEER,
            f"{hello.controller} of domain {hello.domain} is not configured as a peer of "
            f"{settings.controller}",
        )
    retry_after_ms = settings.admission.try_admit(hello.controller, hello.backlog_events)
    if retry_after_ms is not None:
        return Refusal(
            sync_pb2.GOODBYE_REASON_BUSY, "too many peers replay at once", retry_after_ms
        )
    return None
