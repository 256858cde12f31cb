"""Makes the facts of a new command: its id, its bounds, one fact for each domain with targets. Owns what may be asked
for; writes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from controller.twin.facts import timestamp
from federation.errors import InvalidWrite, RequestIdReused
from federation.identifiers import is_valid_id
from federation.proposal import MAX_EVENT_BYTES
from souverix.command.v1 import command_pb2, command_service_pb2

#: Largest action: it is kept by every node's ledger, and travels over the thinnest link there is.
MAX_ACTION_BYTES = 64 * 1024

#: Longest payload of a ping.
MAX_PING_BYTES = 1024

#: Longest free text of the issuer.
MAX_REASON_BYTES = 1024

#: Longest version of a policy, as where policies are declared.
MAX_VERSION_BYTES = 128

DEFAULT_TTL_S = 300
MAX_TTL_S = 30 * 24 * 3600

#: All facts of one command: they share a commit with whatever was drafted before them (design §4: at most 1 MiB).
MAX_COMMAND_BYTES = 448 * 1024

#: What an event adds to its body: stamp, context, term, request_id, principal.
EVENT_OVERHEAD_BYTES = 4 * 1024

#: Hexadecimal digits of a command's id: 128 bits, out of reach of chance and of a second preimage.
ID_DIGITS = 32


def command_id_of(principal: str, request_id: str) -> str:
    """The id of a command: the same for the same request of the same principal, wherever it enters."""
    digest = hashlib.sha256()
    for part in (principal.encode(), request_id.encode()):
        digest.update(len(part).to_bytes(4, "big"))
        digest.update(part)
    return digest.hexdigest()[:ID_DIGITS]


def facts_of(
    request: command_service_pb2.IssueCommandRequest,
    command_id: str,
    placed: Mapping[str, tuple[str, ...]],
    controller: str,
    now_ms: int,
    traceparent: str = "",
) -> dict[str, command_pb2.CommandFact]:
    """One fact for each domain of `placed` (node ids by domain). Raises `InvalidWrite`.

    `traceparent` is the place in a trace that what is done for the command later joins; empty: none.
    """
    check_action(request.action)
    ttl_ms = _ttl_ms(request)
    if len(request.reason.encode()) > MAX_REASON_BYTES:
        raise InvalidWrite(f"reason is longer than {MAX_REASON_BYTES} bytes")
    total = sum(map(len, placed.values()))
    facts = {
        domain: command_pb2.CommandFact(
            command_id=command_id,
            action=request.action,
            semantics=request.semantics or command_pb2.DELIVERY_SEMANTICS_AT_LEAST_ONCE,
            nodes=nodes,
            issue_time=timestamp(now_ms),
            expire_time=timestamp(now_ms + ttl_ms),
            issuing_controller=controller,
            total_targets=total,
            reason=request.reason,
            traceparent=traceparent,
        )
        for domain, nodes in placed.items()
    }
    sizes = [fact.ByteSize() for fact in facts.values()]
    if max(sizes) > MAX_EVENT_BYTES - EVENT_OVERHEAD_BYTES or sum(sizes) > MAX_COMMAND_BYTES:
        raise InvalidWrite(
            f"action and target ids together are {sum(sizes)} bytes; at most {MAX_COMMAND_BYTES}, and "
            f"{MAX_EVENT_BYTES - EVENT_OVERHEAD_BYTES} a domain, are allowed: issue the command in parts"
        )
    return facts


def check_action(action: command_pb2.Action) -> None:
    """Refuses an action that no node could carry out. Raises `InvalidWrite`."""
    kind = action.WhichOneof("action")
    if kind is None:
        raise InvalidWrite(
            "action: exactly one of ping, refresh_inventory, apply_config and apply_desired_state is to be given"
        )
    if action.ByteSize() > MAX_ACTION_BYTES:
        raise InvalidWrite(
            f"the action is {action.ByteSize()} bytes; at most {MAX_ACTION_BYTES} are allowed"
        )
    if len(action.ping.payload.encode()) > MAX_PING_BYTES:
        raise InvalidWrite(f"action.ping.payload is longer than {MAX_PING_BYTES} bytes")
    if kind == "apply_config":
        _check_apply_config(action.apply_config)


def _check_apply_config(apply: command_pb2.ApplyConfig) -> None:
    if not apply.HasField("document") and not apply.policy_bundle:
        raise InvalidWrite("action.apply_config.document is required where no policy is named")
    if apply.policy_bundle and not is_valid_id(apply.policy_bundle):
        raise InvalidWrite(
            f"action.apply_config.policy_bundle {apply.policy_bundle[:80]!r} is no id"
        )
    if len(apply.policy_version.encode()) > MAX_VERSION_BYTES:
        raise InvalidWrite(
            f"action.apply_config.policy_version is longer than {MAX_VERSION_BYTES} bytes"
        )
    if apply.policy_version and not apply.policy_bundle:
        raise InvalidWrite("action.apply_config.policy_version names no policy_bundle")


def check_repeat(
    request: command_service_pb2.IssueCommandRequest, earlier: command_pb2.Command
) -> None:
    """Refuses a request_id that stands for another command. Raises `RequestIdReused`."""
    semantics = request.semantics or command_pb2.DELIVERY_SEMANTICS_AT_LEAST_ONCE
    nodes = {delivery.node for delivery in earlier.deliveries}
    same_nodes = not request.targets.nodes or nodes == set(request.targets.nodes)
    if request.action == earlier.action and semantics == earlier.semantics and same_nodes:
        return
    raise RequestIdReused(
        f"request_id {request.request_id!r} was used for another command ({earlier.name}); use a new one",
        request_id=request.request_id,
        subject=earlier.name,
    )


def _ttl_ms(request: command_service_pb2.IssueCommandRequest) -> int:
    if not request.expiry.HasField("ttl"):
        return DEFAULT_TTL_S * 1000
    ttl = request.expiry.ttl
    ttl_ms: int = ttl.seconds * 1000 + ttl.nanos // 1_000_000
    if not 0 < ttl_ms <= MAX_TTL_S * 1000:
        raise InvalidWrite("expiry.ttl must be positive and at most 30 days")
    return ttl_ms
