"""Mutated frames of node links and relays: seeded, so that each can be made again. Owns the mutations and what must
hold for each of them: no crash, no effect. Judges frames by the controller's own checks, without a stream.

`mutations(count, seed)` yields cases for whoever sends them or judges them; `judge(case)` says what became of one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import DecodeError, Message

from controller.nodelink.greeting import NotWelcome, check_hello
from controller.nodelink.proof import (
    chain_next,
    chain_start,
    custody_message,
    end_message,
    proof_message,
)
from controller.nodelink.relay_deposits import MAX_DEPOSITED_REPORTS
from controller.nodelink.staging import Staging, Violation
from controller.signing import Ed25519Signer, Ed25519Verifier
from souverix.fleet.v1 import node_pb2, observation_pb2
from souverix.nodelink.v1 import nodelink_pb2, relay_pb2

NODE, SOURCE, RUN, CONTROLLER = "n1", "s1", "r1", "edge-zone-a1-control"
TOKEN, NONCE = b"t" * 16, b"n" * 32
REPORTS = 6

_KEY = Ed25519Signer(Ed25519PrivateKey.from_private_bytes(b"k" * 32))
_OTHER_KEY = Ed25519Signer(Ed25519PrivateKey.from_private_bytes(b"o" * 32))
_VERIFIER = Ed25519Verifier()

#: Bytes put in at most by one mutation: beyond a frame's bound the transport refuses it before anybody looks.
MAX_INSERTED = 256


@dataclass(frozen=True, slots=True)
class Case:
    """One mutated frame. `kind` names what it was: hello, proof, replay or deposit."""

    number: int
    kind: str
    mutation: str
    #: Serialised `ConnectRequest`, or `RelayLinkServiceConnectRequest` for a deposit.
    frame: bytes
    original: bytes


def mutations(count: int, seed: int) -> Iterator[Case]:
    """So many mutated frames, the same for the same seed."""
    chance = random.Random(seed)
    originals = _originals()
    kinds = sorted(originals)
    names = sorted(_BYTE_MUTATIONS)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        original = originals[kind]
        if kind in ("replay", "deposit") and chance.random() < 0.5:
            name = chance.choice(sorted(_CHUNK_MUTATIONS))
            frame = _mutated_chunk(kind, original, _CHUNK_MUTATIONS[name], chance)
        else:
            name = chance.choice(names)
            frame = _BYTE_MUTATIONS[name](original, chance)
        yield Case(number, kind, name, frame, original)


def judge(case: Case) -> str:
    """What the controller's checks say of a frame: why it is refused, or "ACCEPTED". Raises nothing for any bytes."""
    try:
        if case.kind == "deposit":
            return _judge_deposit(relay_pb2.RelayLinkServiceConnectRequest.FromString(case.frame))
        request = nodelink_pb2.ConnectRequest.FromString(case.frame)
    except DecodeError:
        return "UNDECODABLE"
    match request.WhichOneof("kind"):
        case "hello":
            return _judge_hello(request.hello)
        case "proof":
            return _judge_proof(request.proof)
        case "replay_chunk":
            return _judge_chunk(request.replay_chunk, _is_end_signed)
        case _:
            return "OUT_OF_PLACE"


def says_the_same(case: Case) -> bool:
    """Tells whether a mutated frame says what the original said, by what counts: protobuf has many forms for one."""
    if case.kind == "deposit":
        frame = relay_pb2.RelayLinkServiceConnectRequest.FromString(case.frame).deposit
        meant = relay_pb2.RelayLinkServiceConnectRequest.FromString(case.original).deposit
        words = (frame.node, frame.source) == (meant.node, meant.source)
        return words and _content(frame.batch) == _content(meant.batch)
    request = nodelink_pb2.ConnectRequest.FromString(case.frame)
    original = nodelink_pb2.ConnectRequest.FromString(case.original)
    if case.kind == "replay":
        return _content(request.replay_chunk) == _content(original.replay_chunk)
    return request.proof.signature == original.proof.signature


# What is mutated.


def _reports() -> list[bytes]:
    found = []
    for sequence in range(1, REPORTS + 1):
        if sequence % 2:
            state = node_pb2.ActualState(reported_version=f"v{sequence}")
            report = nodelink_pb2.Report(sequence=sequence, actual_state=state)
        else:
            seen = observation_pb2.Inventory(hostname=NODE, kernel=f"k{sequence}")
            report = nodelink_pb2.Report(sequence=sequence, inventory=seen)
        found.append(report.SerializeToString(deterministic=True))
    return found


def _chunk(sign: Callable[[int, bytes], bytes]) -> nodelink_pb2.ReplayChunk:
    head, reports = chain_start(NODE, SOURCE, 1), _reports()
    for raw in reports:
        head = chain_next(head, raw)
    return nodelink_pb2.ReplayChunk(
        number=1,
        first_sequence=1,
        reports=reports,
        chain_hash=head,
        signature=_KEY.sign(sign(len(reports), head)),
    )


def _originals() -> dict[str, bytes]:
    hello = nodelink_pb2.AgentHello(
        node=NODE,
        source=SOURCE,
        run=RUN,
        agent_version="1.0",
        public_key=_KEY.public_key,
        backlog_reports=REPORTS,
        oldest_report=1,
    )
    signed = _KEY.sign(proof_message(CONTROLLER, NODE, SOURCE, RUN, NONCE))
    batch = _chunk(custody_message)
    deposit = relay_pb2.Deposit(node=NODE, source=SOURCE, batch=batch)
    messages: dict[str, Message] = {
        "hello": nodelink_pb2.ConnectRequest(hello=hello),
        "proof": nodelink_pb2.ConnectRequest(proof=nodelink_pb2.AgentProof(signature=signed)),
        "replay": nodelink_pb2.ConnectRequest(
            replay_chunk=_chunk(lambda last, head: end_message(TOKEN, last, 0, head))
        ),
        "deposit": relay_pb2.RelayLinkServiceConnectRequest(deposit=deposit),
    }
    return {kind: message.SerializeToString() for kind, message in messages.items()}


# Mutations of bytes.


def _flip(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def _drop(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + data[at + chance.randint(1, 16) :]


def _insert(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + chance.randbytes(chance.randint(1, MAX_INSERTED)) + data[at:]


def _repeat(data: bytes, chance: random.Random) -> bytes:
    begin = chance.randrange(len(data))
    piece = data[begin : begin + chance.randint(1, 64)]
    return data[:begin] + piece + data[begin:]


def _noise(data: bytes, chance: random.Random) -> bytes:
    return chance.randbytes(chance.randint(0, len(data)))


_BYTE_MUTATIONS = {
    "flip": _flip,
    "cut": _cut,
    "drop": _drop,
    "insert": _insert,
    "repeat": _repeat,
    "noise": _noise,
}


# Mutations of a chunk by somebody who knows the contract and has no key: the chain is made right again.


def _reorder(chunk: nodelink_pb2.ReplayChunk, chance: random.Random) -> None:
    one, other = chance.sample(range(len(chunk.reports)), 2)
    chunk.reports[one], chunk.reports[other] = chunk.reports[other], chunk.reports[one]


def _leave_out(chunk: nodelink_pb2.ReplayChunk, chance: random.Random) -> None:
    del chunk.reports[chance.randrange(len(chunk.reports))]


def _say_twice(chunk: nodelink_pb2.ReplayChunk, chance: random.Random) -> None:
    chunk.reports.insert(0, chunk.reports[chance.randrange(len(chunk.reports))])


def _forge(chunk: nodelink_pb2.ReplayChunk, chance: random.Random) -> None:
    at = chance.randrange(len(chunk.reports))
    state = node_pb2.ActualState(reported_version=f"forged-{chance.random()}")
    report = nodelink_pb2.Report(sequence=at + 1, actual_state=state)
    chunk.reports[at] = report.SerializeToString()


def _append(chunk: nodelink_pb2.ReplayChunk, chance: random.Random) -> None:
    state = node_pb2.ActualState(reported_version="more")
    for sequence in range(REPORTS + 1, REPORTS + 1 + chance.randint(1, 100)):
        report = nodelink_pb2.Report(sequence=sequence, actual_state=state)
        chunk.reports.append(report.SerializeToString())


def _from_the_future(chunk: nodelink_pb2.ReplayChunk, chance: random.Random) -> None:
    chunk.first_sequence += chance.choice((1, 1000, 2**40, 2**63))


def _number_otherwise(chunk: nodelink_pb2.ReplayChunk, chance: random.Random) -> None:
    chunk.number = chance.choice((0, 2, 7, 2**32 - 1))


def _sign_otherwise(chunk: nodelink_pb2.ReplayChunk, chance: random.Random) -> None:
    chunk.signature = _OTHER_KEY.sign(chunk.chain_hash + chance.randbytes(8))


_CHUNK_MUTATIONS: dict[str, Callable[[nodelink_pb2.ReplayChunk, random.Random], None]] = {
    "reorder": _reorder,
    "leave out": _leave_out,
    "say twice": _say_twice,
    "forge": _forge,
    "append": _append,
    "from the future": _from_the_future,
    "number otherwise": _number_otherwise,
    "sign otherwise": _sign_otherwise,
}


def _mutated_chunk(
    kind: str,
    original: bytes,
    mutate: Callable[[nodelink_pb2.ReplayChunk, random.Random], None],
    chance: random.Random,
) -> bytes:
    message: relay_pb2.RelayLinkServiceConnectRequest | nodelink_pb2.ConnectRequest
    if kind == "deposit":
        message = relay_pb2.RelayLinkServiceConnectRequest.FromString(original)
        chunk = message.deposit.batch
    else:
        message = nodelink_pb2.ConnectRequest.FromString(original)
        chunk = message.replay_chunk
    mutate(chunk, chance)
    head = chain_start(NODE, SOURCE, chunk.first_sequence)
    for raw in chunk.reports:
        head = chain_next(head, raw)
    chunk.chain_hash = head
    return message.SerializeToString()


# The controller's checks.


def _judge_hello(hello: nodelink_pb2.AgentHello) -> str:
    try:
        check_hello(hello)
    except NotWelcome as refusal:
        return nodelink_pb2.LinkEnd.Name(refusal.reason)
    # What is well-formed still has to prove that it is the node: by the key that is pinned, not the one it names.
    return "PROOF_DEMANDED"


def _judge_proof(proof: nodelink_pb2.AgentProof) -> str:
    message = proof_message(CONTROLLER, NODE, SOURCE, RUN, NONCE)
    signed = _VERIFIER.verify(_KEY.public_key, message, proof.signature)
    return "ACCEPTED" if signed else "PROOF_FAILED"


def _is_end_signed(staging: Staging, chunk: nodelink_pb2.ReplayChunk) -> None:
    staging.check_end(chunk, TOKEN, _verify)


def _is_batch_signed(staging: Staging, chunk: nodelink_pb2.ReplayChunk) -> None:
    staging.check_custody(chunk.signature, _verify)


def _verify(message: bytes, signature: bytes) -> bool:
    return _VERIFIER.verify(_KEY.public_key, message, signature)


def _judge_chunk(
    chunk: nodelink_pb2.ReplayChunk,
    check: Callable[[Staging, nodelink_pb2.ReplayChunk], None],
    source: str = SOURCE,
    node: str = NODE,
    first: int = 1,
) -> str:
    staging = Staging(node, source, first)
    try:
        staging.take(chunk)
        if not chunk.signature:
            return "STAGED"
        check(staging, chunk)
    except Violation as violation:
        return violation.reason
    return "ACCEPTED"


def _judge_deposit(request: relay_pb2.RelayLinkServiceConnectRequest) -> str:
    deposit, batch = request.deposit, request.deposit.batch
    if not request.HasField("deposit"):
        return "OUT_OF_PLACE"
    if deposit.reports or not 0 < len(batch.reports) <= MAX_DEPOSITED_REPORTS:
        return "NOT_TAKEN"
    if not batch.signature:
        return "SIGNATURE_INVALID"
    return _judge_chunk(
        batch, _is_batch_signed, deposit.source, deposit.node, int(batch.first_sequence)
    )


def _content(chunk: nodelink_pb2.ReplayChunk) -> tuple[list[bytes], int]:
    """What would take effect of a chunk."""
    return list(chunk.reports), int(chunk.remaining_reports)
