"""Lists that come in pages.

Owns how many pages are fetched. Never hides that a list goes on.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from souverixctl.connection import Reply
from souverixctl.errors import CtlError
from souverixctl.session import Session

# The most a controller puts in one page.
MAX_PAGE_SIZE = 1000


def fetch_pages(
    session: Session, request: Message, reply_type: type[Reply], items: str, limit: int
) -> Reply:
    """All pages up to `limit` entries (0: all) as one reply; says so when there are more.

    `items` names the repeated field. The reply's other fields are those of the first page, the
    token is that of the last: set when the list goes on.
    """
    page: Any = request  # every List request has page_size and page_token
    page.page_size = MAX_PAGE_SIZE if limit == 0 else min(MAX_PAGE_SIZE, limit)
    merged = session.connection.call(request, reply_type)
    whole: Any = merged
    seen: set[str] = set()
    while whole.next_page_token:
        held = len(getattr(merged, items))
        if 0 < limit <= held:
            session.output.note(f"there are more than these {held}: --limit 0 fetches all")
            break
        if whole.next_page_token in seen:
            raise CtlError("the controller repeats a page token: the list cannot be completed")
        seen.add(whole.next_page_token)
        page.page_token = whole.next_page_token
        page.page_size = MAX_PAGE_SIZE if limit == 0 else min(MAX_PAGE_SIZE, limit - held)
        reply: Any = session.connection.call(request, reply_type)
        getattr(merged, items).extend(getattr(reply, items))
        whole.next_page_token = reply.next_page_token
    return merged
