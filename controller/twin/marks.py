"""What is remembered of a node that is not in memory, in one number, so that passes over all nodes read only those they
are about. Owns the bits; decides nothing.
"""

from __future__ import annotations

from federation.state import State
from federation.table import Aspects

#: The node exists in this domain and lives there.
LIVES_HERE = 1

#: Its maintenance or another state of its lifecycle expires.
EXPIRES = 2

#: Its inventory names large values.
NAMES_VALUES = 4

#: The state of its link is recorded.
HAS_LINK = 8


def mark_of(domain: str, aspects: Aspects) -> int:
    """The mark of a subject whose aspects are not contested."""
    mark = 0
    placement, existence = aspects.get("placement"), aspects.get("existence")
    if (
        placement
        and existence
        and placement[0].body().domain == domain
        and existence[0].body().exists
    ):
        mark |= LIVES_HERE
    lifecycle, inventory = aspects.get("lifecycle"), aspects.get("inventory")
    if lifecycle and lifecycle[0].body().HasField("expire_time"):
        mark |= EXPIRES
    if inventory and inventory[0].body().large_values:
        mark |= NAMES_VALUES
    if "link_state" in aspects:
        mark |= HAS_LINK
    return mark


def may_be(state: State, domain: str, subject: str, wanted: int) -> bool:
    """Tells whether a subject may bear a mark: a cold one that does not is not worth reading."""
    mark = state.table.mark(domain, subject)
    return mark is None or bool(mark & wanted)
