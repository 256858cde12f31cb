"""What a controller can have a node do.

Owns the actions: what each accepts, what it does, what it answers, and whether doing it twice does harm. Knows
nothing of delivery: the ledger and the commands module see to that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from nodeagent.canonical_json import Json, document_of
from nodeagent.clock import Clock, timestamp
from nodeagent.configuration import (
    DEFAULT_NAME,
    MAX_DOCUMENT_DEPTH,
    ConfigurationStore,
    Policy,
    check_document,
)
from nodeagent.errors import CommandRefused
from nodeagent.reporter import Reporter
from souverix.command.v1 import command_pb2

MAX_PING_BYTES = 1024
"""Largest payload echoed, by the contract."""

MAX_POLICY_BYTES = 128
"""Longest id and longest version of a policy, by the contract."""

Output = dict[str, Json]


@dataclass(frozen=True, slots=True)
class Tools:
    """What actions work with."""

    node: str
    clock: Clock
    configuration: ConfigurationStore
    reporter: Reporter


@dataclass(frozen=True, slots=True)
class Handler:
    """One kind of action.

    `check` raises CommandRefused for what will not be done; `run` does it and answers, and raises StateUnavailable
    when it cannot. `idempotent`: doing it again after an interruption does no harm.
    """

    idempotent: bool
    check: Callable[[command_pb2.Action], None]
    run: Callable[[Tools, command_pb2.Action, int], Awaitable[Output]]


def handler_of(action: command_pb2.Action) -> Handler:
    """The handler of an action. Raises CommandRefused when this agent does not know it."""
    handler = HANDLERS.get(action.WhichOneof("action") or "")
    if handler is None:
        raise CommandRefused(
            f"this agent does not know the action; it knows {', '.join(sorted(HANDLERS))}"
        )
    return handler


def _check_ping(action: command_pb2.Action) -> None:
    if len(action.ping.payload.encode()) > MAX_PING_BYTES:
        raise CommandRefused(f"the payload of a ping has at most {MAX_PING_BYTES} bytes")


async def _ping(tools: Tools, action: command_pb2.Action, receive_us: int) -> Output:
    return {
        "node": tools.node,
        "payload": action.ping.payload,
        "receive_time": timestamp(receive_us).ToJsonString(),
        "answer_time": timestamp(tools.clock.wall_us()).ToJsonString(),
    }


def _check_refresh_inventory(action: command_pb2.Action) -> None:
    """It has no parameters that could be wrong."""


async def _refresh_inventory(tools: Tools, action: command_pb2.Action, receive_us: int) -> Output:
    observed = await tools.reporter.report_inventory(always=True)
    inventory = observed.inventory
    return {
        "hostname": inventory.hostname,
        "os": f"{inventory.os.name} {inventory.os.version}".strip(),
        "kernel": inventory.kernel,
        "architecture": inventory.architecture,
        "cpu": inventory.cpu.model,
        "logical_processors": inventory.cpu.logical_processors,
        "memory_bytes": inventory.memory_bytes,
        "storage_bytes": sum(filesystem.capacity_bytes for filesystem in inventory.filesystems),
        "gpus": len(inventory.gpus),
        "packages": observed.package_count,
        "observe_time": inventory.observe_time.ToJsonString(),
    }


def _document(action: command_pb2.Action) -> tuple[str, dict[str, Json]] | None:
    """The document, and the name it is kept under; None where only a policy is brought."""
    apply_config = action.apply_config
    if not apply_config.HasField("document"):
        if apply_config.policy_bundle:
            return None
        raise CommandRefused("apply_config needs a document; an empty one is {}")
    try:
        document = document_of(apply_config.document, MAX_DOCUMENT_DEPTH)
    except ValueError as error:
        raise CommandRefused(
            f"the document cannot be kept: {error} (at most {MAX_DOCUMENT_DEPTH} levels)"
        ) from error
    return apply_config.config_name or DEFAULT_NAME, document


def _check_apply_config(action: command_pb2.Action) -> None:
    kept = _document(action)
    if kept is not None:
        check_document(*kept)
    for text in (action.apply_config.policy_bundle, action.apply_config.policy_version):
        if len(text.encode()) > MAX_POLICY_BYTES:
            raise CommandRefused(
                f"id and version of a policy have at most {MAX_POLICY_BYTES} bytes each"
            )


async def _apply_config(tools: Tools, action: command_pb2.Action, receive_us: int) -> Output:
    kept, apply_config = _document(action), action.apply_config
    policy = (
        Policy(apply_config.policy_bundle, apply_config.policy_version)
        if apply_config.policy_bundle
        else None
    )
    now_us = tools.clock.wall_us()
    output: Output = {}
    if kept is not None:
        applied = tools.configuration.apply(*kept, now_us, policy)
        output.update(config_name=applied.name, config_hash=applied.digest)
    elif policy is not None:
        tools.configuration.follow(policy, now_us)
    if policy is not None:
        output.update(policy_bundle=policy.bundle, policy_version=policy.version)
    tools.reporter.report_actual_state()
    return {**output, "apply_time": timestamp(now_us).ToJsonString()}


def _check_apply_desired_state(action: command_pb2.Action) -> None:
    raise CommandRefused(
        "nothing is declared for this node: neither a configuration nor a policy governs it"
    )


HANDLERS = {
    "ping": Handler(True, _check_ping, _ping),
    "refresh_inventory": Handler(True, _check_refresh_inventory, _refresh_inventory),
    "apply_config": Handler(True, _check_apply_config, _apply_config),
    # The controller sends what governs the node as an apply_config; where nothing does, the action itself.
    "apply_desired_state": Handler(True, _check_apply_desired_state, _apply_config),
}
"""By the name of the field that is set in Action."""
