"""Watches that outlive their streams.

Owns when a watch is opened again: streams end by age, slow readers are dropped, controllers stop.
Never goes on silently where changes may have been missed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import grpc
from google.protobuf.message import Message

from souverixctl.connection import Reply
from souverixctl.errors import Refused
from souverixctl.session import Session

# Openings in a row that bring nothing; each already tries every address several times.
MAX_EMPTY_OPENINGS = 5
PAUSE_S = 0.5

_OPEN_AGAIN = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}


def follow(
    session: Session,
    request_from: Callable[[str], Message],
    reply_type: type[Reply],
    token_of: Callable[[Reply], str] | None,
    gap_note: str,
    limit_s: float | None = None,
) -> Iterator[Reply]:
    """Replies of a watch, across its streams, until the reader stops or `limit_s` has passed.

    `request_from` makes the request that goes on after a resume token; `token_of` reads it from a
    reply, "" where there is none. Without `token_of` the watch begins anew each time, and `gap_note`
    tells the reader what that means. Raises Refused.
    """
    token = ""
    empty_openings = 0
    deadline = None if limit_s is None else time.monotonic() + limit_s
    while True:
        left_s = None if deadline is None else deadline - time.monotonic()
        if left_s is not None and left_s <= 0:
            return
        try:
            for reply in session.connection.stream(request_from(token), reply_type, left_s):
                empty_openings = 0
                if token_of is not None:
                    token = token_of(reply) or token
                yield reply
            empty_openings += 1
            if empty_openings >= MAX_EMPTY_OPENINGS:
                raise Refused(
                    grpc.StatusCode.UNAVAILABLE,
                    "the controller ends the watch each time it is opened",
                    method=request_from(token).DESCRIPTOR.name,
                    address=session.connection.address,
                )
        except Refused as refused:
            if refused.code is grpc.StatusCode.OUT_OF_RANGE and token:
                token = ""
                session.output.note("the watch is too old to go on: beginning anew")
                continue
            if deadline is not None and time.monotonic() >= deadline:
                return
            empty_openings += 1
            if refused.code not in _OPEN_AGAIN or empty_openings >= MAX_EMPTY_OPENINGS:
                raise
            session.output.note(f"{refused.address}: {refused.message}; watching again")
        if not token:
            session.output.note(gap_note)
        time.sleep(PAUSE_S)
