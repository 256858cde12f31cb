"""A command as a controller sees it: composed from its facts, cancels and deliveries. Owns the composition; the facts
are the log's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

from controller.command.delivery import TERMINAL, DeliveryState, Target
from controller.command.messages import subject_of_command, subject_of_delivery, wire_name
from controller.twin.facts import Facts, domains_of, state_of, timestamp
from federation.clock import wall_ms_of
from federation.codec import Write
from federation.identifiers import Key
from federation.merge import etag_of
from souverix.command.v1 import command_pb2

#: Reason shown for a target of which its delivering controller has said nothing yet.
NOT_HEARD_OF = "NOT_CONFIRMED_BY_DELIVERING_CONTROLLER"

#: Reason shown where an answer is there but was left out of the view for its size; a command to fewer nodes shows it.
ANSWER_LEFT_OUT = "ANSWER_LEFT_OUT_OF_LARGE_VIEW"

#: Answers shown in one view, so that a command with the most targets fits into one message.
MAX_ANSWERS_BYTES = 1024 * 1024

#: Numbers of the terminal states, as messages carry them.
FINISHED = frozenset(int(state) for state in TERMINAL)


def command_facts(facts: Facts, command_id: str) -> Iterator[tuple[str, Write]]:
    """The command's fact in each domain that has targets known here."""
    subject = subject_of_command(command_id)
    for domain in sorted(domains_of(facts, subject)):
        write = facts.winner(Key(domain, subject, "command"))
        if write is not None:
            yield domain, write


def view_of(facts: Facts, command_id: str) -> command_pb2.Command | None:
    """The command; None when it is not known here."""
    view: command_pb2.Command | None = None
    digest = hashlib.sha256()
    budget = MAX_ANSWERS_BYTES
    cancels: list[Write] = []
    for domain, write in command_facts(facts, command_id):
        fact: command_pb2.CommandFact = write.body()
        view = view or _blank(fact, write.principal)
        cancel_key = Key(domain, subject_of_command(command_id), "command_cancel")
        cancel = facts.winner(cancel_key)
        if cancel is not None:
            cancels.append(cancel)
            _take_etag(facts, cancel_key, digest)
        for node in fact.nodes:
            delivery = _delivery(facts, Target(domain, command_id, node), digest)
            budget -= delivery.output.ByteSize() + len(delivery.error_message)
            if budget < 0:
                delivery.ClearField("output")
                delivery.ClearField("error_message")
                delivery.reason = delivery.reason or ANSWER_LEFT_OUT
            view.deliveries.append(delivery)
    if view is None:
        return None
    if cancels:
        _show_cancel(view, min(cancels, key=lambda write: write.stamp))
    view.finished_targets = sum(d.state in FINISHED for d in view.deliveries)
    view.done = view.finished_targets >= view.total_targets
    view.etag = digest.hexdigest()[:20]
    return view


def preview_of(facts: Mapping[str, command_pb2.CommandFact], principal: str) -> command_pb2.Command:
    """The command as these facts, one a domain, would make it."""
    view = _blank(next(iter(facts.values())), principal)
    for fact in facts.values():
        view.deliveries.extend(_unheard_of(fact.command_id, node) for node in fact.nodes)
    return view


def open_domains(facts: Facts, command_id: str) -> list[str]:
    """Domains in which targets of the command are not finished, as known here."""
    found = []
    for domain, write in command_facts(facts, command_id):
        targets = (Target(domain, command_id, node) for node in write.body().nodes)
        if not all(_is_finished(facts, target) for target in targets):
            found.append(domain)
    return found


def delivery_body(facts: Facts, target: Target) -> command_pb2.Delivery | None:
    """How far the command got at one node, as recorded; None when nothing is recorded here."""
    winner = facts.winner(Key(target.domain, subject_of_delivery(target), "delivery"))
    body: command_pb2.Delivery | None = winner.body() if winner is not None else None
    return body


def listed_commands(facts: Facts, domain: str) -> list[tuple[int, str]]:
    """(stamp, id) of all commands known here, or of those with targets in one domain; newest first."""
    state = state_of(facts)
    domains = [domain] if domain else [d for d, kind in state.table.subjects if kind == "commands"]
    newest: dict[str, int] = {}
    for at in domains:
        for subject in state.subjects_of(at, "commands"):
            if subject.count("/") != 1:
                continue
            write = facts.winner(Key(at, subject, "command"))
            if write is not None:
                command_id = subject.partition("/")[2]
                newest[command_id] = max(newest.get(command_id, 0), write.stamp)
    return sorted(((stamp, command_id) for command_id, stamp in newest.items()), reverse=True)


def _is_finished(facts: Facts, target: Target) -> bool:
    body = delivery_body(facts, target)
    return body is not None and body.state in FINISHED


def _delivery(facts: Facts, target: Target, digest: hashlib._Hash) -> command_pb2.Delivery:
    key = Key(target.domain, subject_of_delivery(target), "delivery")
    body = delivery_body(facts, target)
    if body is not None:
        _take_etag(facts, key, digest)
        return body
    digest.update(target.node.encode())
    return _unheard_of(target.command_id, target.node)


def _unheard_of(command_id: str, node: str) -> command_pb2.Delivery:
    return command_pb2.Delivery(
        command_id=command_id,
        node=node,
        state=wire_name(DeliveryState.PENDING),
        reason=NOT_HEARD_OF,
    )


def _blank(fact: command_pb2.CommandFact, principal: str) -> command_pb2.Command:
    """The command without its targets."""
    return command_pb2.Command(
        name=subject_of_command(fact.command_id),
        id=fact.command_id,
        action=fact.action,
        semantics=fact.semantics,
        principal=principal,
        issuing_controller=fact.issuing_controller,
        issue_time=fact.issue_time,
        expire_time=fact.expire_time,
        total_targets=fact.total_targets,
        reason=fact.reason,
    )


def _show_cancel(view: command_pb2.Command, cancel: Write) -> None:
    """Puts into the view that the command was to be stopped: why, by whose wish, since when."""
    view.cancel_requested = True
    view.cancel_reason = cancel.body().reason
    view.cancel_principal = cancel.principal
    view.cancel_time.CopyFrom(timestamp(wall_ms_of(cancel.stamp)))


def _take_etag(facts: Facts, key: Key, digest: hashlib._Hash) -> None:
    winner = facts.winner(key)
    if winner is not None:
        digest.update(etag_of(facts.siblings(key), winner).encode())
