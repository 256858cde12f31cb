"""What nodes prove of the software and the host they run on: shown, demanded, accepted, and what is expected of them.

Owns how attestations are asked for and shown. Never judges a statement: the controller does.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import click

from souverix.fleet.v1 import supply_chain_pb2
from souverix.trust.v1 import attestation_pb2
from souverix.trust.v1 import attestation_service_pb2 as service
from souverixctl import options
from souverixctl.describe import field_word
from souverixctl.errors import BadInput, CtlError, WaitedTooLong
from souverixctl.output import Cell
from souverixctl.results import (
    age,
    coloured,
    note_freshness,
    present,
    present_details,
    present_write,
    word,
)
from souverixctl.session import Session, Verbs, pass_session
from souverixctl.times import parse_duration, seconds_of

#: Between two looks at whether a node has answered.
LOOK_EVERY_S = 0.5

#: How long a node is waited for: a challenge is good for half a minute.
DEFAULT_WAIT = "60s"

ACTIONS = ("nothing", "attention", "quarantine")
FINDING_COLUMNS = ("REGISTER", "WRONG", "MEASURED", "EXPECTED")
PART_COLUMNS = ("REGISTER", "PART", "DIGEST")
REGISTER_COLUMNS = ("REGISTER", "MEASURED", "PINNED")
HISTORY_COLUMNS = ("SINCE", "FROM", "TO", "REASON", "WRONG", "BY")

group = Verbs(
    "attestation",
    help="What nodes measure of themselves, signed over a challenge, and what is expected of it.\n\n"
    "A domain's policy pins registers (their first value is believed, and then expected) or lists the values they may"
    " hold. Nodes are challenged when they come, at an interval, and on demand.\n\n"
    "\b\nsouverixctl attestation set-policy region-a --pin agent.program --on-failure quarantine\n"
    "souverixctl attestation attest a1-gw-1 --wait",
    short_help="What nodes prove of what they run.",
)


@group.command("show", short_help="Show where a node stands.")
@click.argument("id", metavar="NODE")
@pass_session
def show(session: Session, id: str) -> None:
    """Show a node's verdict and its age, what it measured, and what is wrong.

    \b
    souverixctl attestation show a1-gw-1
    """
    reply = _read(session, id)
    present(session, reply, lambda: _show(session, id, reply.attestation))


@group.command("attest", short_help="Demand a statement of a node now.")
@click.argument("id", metavar="NODE")
@click.option("--reason", default="", metavar="TEXT", help="Why, for the audit.")
@click.option(
    "--wait", is_flag=True, help="Wait for the verdict; exit code 1 unless it is VERIFIED."
)
@click.option(
    "--wait-timeout",
    default=DEFAULT_WAIT,
    show_default=True,
    metavar="DURATION",
    help="Longest wait with --wait; exit code 7 when it passes, and the demand stands.",
)
@options.write_options
@pass_session
def attest(
    session: Session, id: str, reason: str, wait: bool, wait_timeout: str, **given: Any
) -> None:
    """Demand that a node attests. One that is away is challenged when it comes.

    \b
    souverixctl attestation attest a1-gw-1 --wait --reason "after the update"
    """
    write = options.read_write_options(given)
    limit_s = seconds_of(parse_duration(wait_timeout))
    request = service.AttestNodeRequest(
        name=options.resource_name("nodes", id), reason=reason, **write.fields()
    )
    reply = session.connection.call(request, service.AttestNodeResponse)
    if not wait or write.validate_only:
        present_write(session, reply, f"a statement of node {id} is demanded")
        return
    _wait(session, id, reply.demand_time.ToNanoseconds(), limit_s)


@group.command("history", short_help="The states a node went through.")
@click.argument("id", metavar="NODE")
@pass_session
def history(session: Session, id: str) -> None:
    """Show the states of a node's attestation, oldest first.

    \b
    souverixctl attestation history a1-gw-1
    """
    request = service.ListAttestationHistoryRequest(name=options.resource_name("nodes", id))
    reply = session.connection.call(request, service.ListAttestationHistoryResponse)
    rows = [_history_row(each, session.output.now) for each in reply.attestations]
    none = "it was never attested, as far as is known here"
    present(session, reply, lambda: session.output.table(HISTORY_COLUMNS, rows, none))
    note_freshness(session, reply)


@group.command("accept", short_help="Accept what a node measured.")
@click.argument("id", metavar="NODE")
@click.option(
    "--digest",
    default="",
    metavar="DIGEST",
    help="The measurements that were looked at, as `attestation show` names them. Default: the last ones.",
)
@click.option("--reason", required=True, metavar="TEXT", help="Why it is in order.")
@options.write_options
@pass_session
def accept(session: Session, id: str, digest: str, reason: str, **given: Any) -> None:
    """Accept a node's measurements, and its attester's key, as what is expected of it from now on.

    It attests again at once; that statement decides. What a rule forbids cannot be accepted: change the policy.

    \b
    souverixctl attestation accept a1-gw-1 --reason "release 2.1.3"
    """
    write = options.read_write_options(given)
    measured = digest or _read(session, id).attestation.attestation.measurements_digest
    if not measured:
        raise BadInput(
            f"no statement of node {id} is known", f"`souverixctl attestation attest {id} --wait`"
        )
    request = service.AcceptMeasurementsRequest(
        name=options.resource_name("nodes", id),
        measurements_digest=measured,
        reason=reason,
        **write.fields(),
    )
    reply = session.connection.call(request, service.AcceptMeasurementsResponse)
    present_write(session, reply, f"measurements {measured} of node {id} are accepted")


@group.command("policy", short_help="Show what a domain expects.")
@click.argument("domain", metavar="DOMAIN")
@pass_session
def policy(session: Session, domain: str) -> None:
    """Show what a domain declares, and what counts in it with the domains above.

    \b
    souverixctl attestation policy edge-zone-a1
    """
    request = service.GetAttestationPolicyRequest(domain=domain)
    reply = session.connection.call(request, service.GetAttestationPolicyResponse)
    present_details(session, reply, reply.policy)


@group.command("set-policy", short_help="Replace what a domain expects.")
@click.argument("domain", metavar="DOMAIN")
@click.option(
    "--pin",
    "pinned",
    multiple=True,
    metavar="REGISTER",
    help="Believe this register's first value at each node, then expect it. May be repeated.",
)
@click.option(
    "--allow",
    "allowed",
    multiple=True,
    metavar="REGISTER=DIGEST",
    help="A value this register may hold; no other but those named so. May be repeated.",
)
@click.option("--interval", metavar="DURATION", help="How often nodes are challenged, such as 1h.")
@click.option("--max-age", metavar="DURATION", help="How long a verification counts, such as 3h.")
@click.option(
    "--on-failure", type=click.Choice(ACTIONS), help="What follows from a failure. [attention]"
)
@click.option("--nothing-expected", is_flag=True, help="Declare that nothing is expected.")
@options.etag_option
@options.write_options
@pass_session
def set_policy(
    session: Session,
    domain: str,
    pinned: tuple[str, ...],
    allowed: tuple[str, ...],
    interval: str | None,
    max_age: str | None,
    on_failure: str | None,
    nothing_expected: bool,
    etag: str,
    **given: Any,
) -> None:
    """Replace a domain's attestation policy as a whole. Domains below may expect more, never less.

    \b
    Registers of an agent on Linux: agent.program, agent.runtime, boot.id, configuration, files (those named with
    --measure), firmware, kernel, kernel.cmdline, os.release, packages

    \b
    souverixctl attestation set-policy region-a --pin agent.program --pin files --on-failure quarantine
    souverixctl attestation set-policy region-a --allow kernel=sha256:… --interval 15m --max-age 1h
    """
    write = options.read_write_options(given)
    if bool(pinned or allowed) == nothing_expected:
        raise BadInput(
            "what is expected?", "name registers with --pin or --allow, or say --nothing-expected"
        )
    spec = attestation_pb2.AttestationPolicySpec(
        pinned_registers=pinned,
        on_failure=f"FAILURE_ACTION_{(on_failure or 'unspecified').upper()}",
    )
    rules: dict[str, list[str]] = {}
    for text in allowed:
        register, equals, digest = text.partition("=")
        if not equals:
            raise BadInput(f"{text!r} is not REGISTER=DIGEST", "as in kernel=sha256:…")
        rules.setdefault(register, []).append(digest)
    for register, digests in rules.items():
        spec.rules.add(register=register, allowed=digests)
    if interval:
        spec.interval.CopyFrom(parse_duration(interval))
    if max_age:
        spec.max_age.CopyFrom(parse_duration(max_age))
    request = service.SetAttestationPolicyRequest(
        domain=domain, spec=spec, etag=etag, **write.fields()
    )
    reply = session.connection.call(request, service.SetAttestationPolicyResponse)
    present_write(session, reply, f"attestation policy of {domain} set", reply.policy.etag)


def _read(session: Session, id: str) -> service.GetAttestationResponse:
    request = service.GetAttestationRequest(name=options.resource_name("nodes", id))
    return session.connection.call(request, service.GetAttestationResponse)


def _wait(session: Session, id: str, demanded_ns: int, limit_s: float) -> None:
    """Looks until the demand is answered, and shows the verdict. Raises CtlError."""
    end_s = time.monotonic() + limit_s
    while True:
        reply = _read(session, id)
        entry = reply.attestation.attestation
        if entry.HasField("demand_time") and entry.demand_time.ToNanoseconds() >= demanded_ns:
            break
        if time.monotonic() >= end_s:
            raise WaitedTooLong(
                f"node {id} has not answered within {limit_s:g} s",
                f"the demand stands; `souverixctl attestation show {id}` tells what came of it",
            )
        time.sleep(LOOK_EVERY_S)
    present(session, reply, lambda: _show(session, id, reply.attestation))
    if entry.state != supply_chain_pb2.INTEGRITY_STATE_VERIFIED:
        raise CtlError(
            f"node {id} is {field_word(entry, 'state')}",
            "put right what is wrong and have it attest again, or accept it with `souverixctl attestation accept`",
        )


def _show(session: Session, id: str, attestation: service.Attestation) -> None:
    output = session.output
    entry = attestation.attestation
    if not attestation.HasField("attestation"):
        output.line(f"node {id} was never attested, as far as is known here")
        return
    now = output.now
    verified = (
        f"verified {age(entry, 'last_verified_time', now)} ago"
        if entry.HasField("last_verified_time")
        else "never verified"
    )
    since = f"since {age(entry, 'since', now)}"
    output.line(coloured(field_word(entry, "state")), entry.reason, since, verified)
    if entry.measurements_digest:
        output.line(f"measurements {entry.measurements_digest}")
    if entry.findings:
        rows = [_finding_row(each) for each in entry.findings]
        output.table(FINDING_COLUMNS, rows, "")
        parts = [
            [each.register, part.name, part.digest]
            for each in entry.findings
            for part in each.parts
        ]
        output.table(PART_COLUMNS, parts, "what the registers are made of was not measured")
    pinned = {each.register: each.value for each in attestation.baseline.registers}
    registers: list[list[Cell]] = [
        [each.register, each.value, pinned.get(each.register, "")] for each in entry.registers
    ]
    output.table(REGISTER_COLUMNS, registers, "nothing was measured")


def _finding_row(finding: attestation_pb2.RegisterFinding) -> list[Cell]:
    return [finding.register, field_word(finding, "reason"), finding.measured, finding.expected]


def _history_row(entry: attestation_pb2.NodeAttestation, now: datetime) -> list[Cell]:
    return [
        age(entry, "since", now),
        field_word(entry, "previous_state"),
        word(entry, "state"),
        entry.reason,
        ", ".join(each.register for each in entry.findings),
        entry.verifier,
    ]
