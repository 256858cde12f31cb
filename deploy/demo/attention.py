"""What the story shows of the attention queue: that an item is there, what it says, that it ends with its cause. Owns
these looks; the steps decide when they are taken.
"""

from __future__ import annotations

from deploy.demo.client import Client
from deploy.demo.questions import attention_of
from deploy.demo.stage import Seen, Stage
from souverix.attention.v1 import attention_pb2


async def show_item(
    stage: Stage, client: Client, domain: str, kind: attention_pb2.AttentionKind, subject: str
) -> attention_pb2.AttentionItem:
    """Waits until an item is in the queue, and shows it. Raises `StepFailed`."""
    item, took_s = await stage.until(
        f"{_word(kind)} of {subject} in the attention queue",
        lambda: _item(client, domain, kind, subject),
    )
    stage.display.happened(f"the attention queue has {_word(kind)}: {item.cause}", took_s)
    stage.display.table(
        ("SCORE", "KIND", "SUBJECT", "NEXT STEP"),
        [(f"{item.score:.1f}", _word(kind), item.subject, item.next_step)],
    )
    return item


async def await_end(
    stage: Stage, client: Client, domain: str, kind: attention_pb2.AttentionKind, subject: str
) -> None:
    """Waits until an item is gone by itself. Raises `StepFailed`."""
    _, took_s = await stage.until(
        f"{_word(kind)} of {subject} out of the attention queue",
        lambda: _gone(client, domain, kind, subject),
    )
    stage.display.happened(f"{_word(kind)} is gone from the attention queue", took_s)


async def _item(
    client: Client, domain: str, kind: attention_pb2.AttentionKind, subject: str
) -> Seen[attention_pb2.AttentionItem]:
    items = await attention_of(client, domain)
    found = next((i for i in items if i.kind == kind and i.subject == subject), None)
    return Seen(f"{len(items)} items in the attention queue of {domain}", found)


async def _gone(
    client: Client, domain: str, kind: attention_pb2.AttentionKind, subject: str
) -> Seen[bool]:
    seen = await _item(client, domain, kind, subject)
    return Seen(seen.text, True if seen.value is None else None)


def _word(kind: attention_pb2.AttentionKind) -> str:
    """As the command line has it: node-drift."""
    name = attention_pb2.AttentionKind.Name(kind).removeprefix("ATTENTION_KIND_")
    return name.replace("_", "-").lower()
