"""Signing keys and what is held without effect: rotation, seals on streams, grants, decisions.

Owns how they are asked for and shown. Never decides by itself: each verb asks for one write, with its reason.
"""

from __future__ import annotations

from typing import Any

import click

from souverix.federation.v1 import authority_pb2 as authority
from souverix.federation.v1 import federation_service_pb2 as service
from souverixctl import options
from souverixctl.errors import BadInput
from souverixctl.federation import group
from souverixctl.output import Cell
from souverixctl.pages import fetch_pages
from souverixctl.results import age, present, present_write, word
from souverixctl.session import Session, pass_session
from souverixctl.times import parse_time

HELD_COLUMNS = ("NAME", "EVENTS", "OUTCOME", "REASON", "SIZE", "PEER", "AGE")

reason_option = click.option(
    "--reason", required=True, metavar="TEXT", help="Why; the audit log will say it."
)


def public_key(text: str) -> bytes:
    """A raw Ed25519 key from its hexadecimal digits. Raises `BadInput`."""
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != 32:
        raise BadInput(
            f"{text!r} is no public key",
            "give the 64 hexadecimal digits that `souverix-controller keygen` printed",
        )
    return raw


@group.command("rotate-key", short_help="Go on under another signing key.")
@click.option("--validate-only", is_flag=True, help="Check everything, change nothing.")
@pass_session
def rotate_key(session: Session, validate_only: bool) -> None:
    """Have the asked controller seal what it writes with another key from now on, without a pause.

    The key is made there, unless one lies ready beside the present one. It never travels.

    \b
    souverixctl federation rotate-key
    """
    request = service.RotateSigningKeyRequest(validate_only=validate_only)
    reply = session.connection.call(request, service.RotateSigningKeyResponse)
    if validate_only:
        done = f"{reply.controller}: key {reply.old_key_id} can be exchanged (nothing was changed)"
    else:
        done = f"{reply.controller}: key {reply.old_key_id} is followed by {reply.key_id}"
    present(session, reply, lambda: session.output.line(done))


@group.command("expel", short_help="Void what a controller below wrote from some point on.")
@click.argument("controller", metavar="CONTROLLER")
@reason_option
@click.option(
    "--void-since",
    default="",
    metavar="TIME",
    help="What came at or after it is void: a time, or a duration ago. Default: all that is in effect here stands.",
)
@click.option(
    "--new-key",
    default="",
    metavar="HEX",
    help="Public key under which the controller goes on. Default: none yet (grant-key).",
)
@options.write_options
@pass_session
def expel(
    session: Session, controller: str, reason: str, void_since: str, new_key: str, **given: Any
) -> None:
    """Seal the streams of a controller below: what it wrote later is void everywhere, and its keys seal no more.

    It goes on under a new incarnation with a key that is granted for it. Only the master of the parent of
    the domain that it serves may.

    \b
    souverixctl federation expel edge-zone-a1-control --reason "host taken over" --void-since 6h
    """
    write = options.read_write_options(given)
    request = service.SealStreamsRequest(
        controller=controller,
        reason=reason,
        public_key=public_key(new_key) if new_key else b"",
        request_id=write.request_id,
        validate_only=write.validate_only,
        durable_at=write.durable_at,
    )
    if void_since:
        request.void_since.CopyFrom(parse_time(void_since, session.output.now))
    reply = session.connection.call(request, service.SealStreamsResponse)
    done = f"{controller}: {len(reply.sealed.streams)} streams are sealed, {reply.voided_events} events are void"
    if write.validate_only:
        present(session, reply, lambda: session.output.line(f"{done}, were this not a check"))
    else:
        present_write(session, reply, done)


@group.command("grant-key", short_help="Grant a controller below a signing key.")
@click.argument("controller", metavar="CONTROLLER")
@click.argument("signing_key", metavar="HEX")
@click.option("--reason", default="", metavar="TEXT", help="Why; the audit log will say it.")
@options.write_options
@pass_session
def grant_key(
    session: Session, controller: str, signing_key: str, reason: str, **given: Any
) -> None:
    """Grant a controller below a public key; after it was expelled, for its next incarnation.

    \b
    souverixctl federation grant-key edge-zone-a1-control 3b6a...
    """
    write = options.read_write_options(given)
    request = service.GrantKeyRequest(
        controller=controller,
        public_key=public_key(signing_key),
        reason=reason,
        request_id=write.request_id,
        validate_only=write.validate_only,
        durable_at=write.durable_at,
    )
    reply = session.connection.call(request, service.GrantKeyResponse)
    present_write(session, reply, f"{controller}: key {reply.grant.key_id} is granted")


@group.command("held", short_help="What is held without effect, and why.")
@click.option("--domain", default="", metavar="DOMAIN", help="Only of this domain. Default: all.")
@options.limit_option
@pass_session
def held(session: Session, domain: str, limit: int) -> None:
    """List events that are held here without effect: pending, quarantined, refused, void.

    \b
    souverixctl federation held --domain edge-zone-a1
    """
    request = service.ListHeldRunsRequest(domain=domain)
    reply = fetch_pages(session, request, service.ListHeldRunsResponse, "runs", limit)
    now = session.output.now
    rows: list[list[Cell]] = [
        [
            run.name,
            f"{run.first_sequence}-{run.last_sequence}",
            word(run, "outcome"),
            run.reason,
            str(run.size_bytes or ""),
            run.peer,
            age(run, "receive_time", now),
        ]
        for run in reply.runs
    ]
    present(session, reply, lambda: session.output.table(HELD_COLUMNS, rows, "nothing is held"))


@group.command("accept-run", short_help="Vouch for events that are held.")
@click.argument("name", metavar="NAME")
@reason_option
@options.write_options
@pass_session
def accept_run(session: Session, name: str, reason: str, **given: Any) -> None:
    """Vouch for who wrote events that are held for want of a good key: they take effect everywhere.

    \b
    souverixctl federation accept-run held/edge-zone-a1/edge-zone-a1-control/1/state/7/9f2c... --reason checked
    """
    _decide(session, name, authority.RULING_ACCEPT, reason, given, "are accepted")


@group.command("discard-run", short_help="Give events that are held up.")
@click.argument("name", metavar="NAME")
@reason_option
@options.write_options
@pass_session
def discard_run(session: Session, name: str, reason: str, **given: Any) -> None:
    """Give events that are held up: they never take effect anywhere, and what follows them in their stream may.

    \b
    souverixctl federation discard-run held/edge-zone-a1/edge-zone-a1-control/1/state/7/9f2c... --reason forged
    """
    _decide(session, name, authority.RULING_DISCARD, reason, given, "are discarded")


def _decide(
    session: Session,
    name: str,
    ruling: authority.Ruling,
    reason: str,
    given: dict[str, Any],
    done: str,
) -> None:
    write = options.read_write_options(given)
    request = service.DecideHeldRunRequest(
        name=name,
        ruling=ruling,
        reason=reason,
        request_id=write.request_id,
        validate_only=write.validate_only,
        durable_at=write.durable_at,
    )
    reply = session.connection.call(request, service.DecideHeldRunResponse)
    decision = reply.decision
    events = f"events {decision.first_sequence} to {decision.last_sequence}"
    present_write(session, reply, f"{name}: {events} {done}")
