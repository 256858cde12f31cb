"""The fence: which master a node may listen to.

Owns the order of fences. Knows nothing of streams or storage. A paused ex-master that wakes up carries a lower
fence than its successor; a node that has met the successor refuses it (design: Nodes).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from souverix.nodelink.v1 import nodelink_pb2


@dataclass(frozen=True, slots=True)
class Fence:
    """Orders the masters a node has met.

    `placement_epoch` counts the node's placements; `incarnation` is of the controller's log; `fencing_token` is
    the create revision of the mastership lease.
    """

    placement_epoch: int
    controller: str
    incarnation: int
    fencing_token: int

    @classmethod
    def from_message(cls, message: nodelink_pb2.Fence) -> Fence:
        """The fence a frame carries."""
        return cls(
            message.placement_epoch,
            message.controller,
            message.incarnation,
            message.fencing_token,
        )

    def to_message(self) -> nodelink_pb2.Fence:
        """The fence as frames carry it."""
        return nodelink_pb2.Fence(
            placement_epoch=self.placement_epoch,
            controller=self.controller,
            incarnation=self.incarnation,
            fencing_token=self.fencing_token,
        )

    def __str__(self) -> str:
        return f"{self.placement_epoch}/{self.controller}/{self.incarnation}/{self.fencing_token}"


class Standing(Enum):
    """How an offered fence stands to the highest one met."""

    HIGHER = "higher"
    EQUAL = "equal"
    LOWER = "lower"


def standing(offered: Fence, highest: Fence | None) -> Standing:
    """Compare `offered` with the highest fence met (None: none was).

    Placement decides first. Within one placement only one controller may speak, so another one is LOWER whatever
    its numbers: tokens of two controllers come from two etcds and cannot be compared.
    """
    if highest is None:
        return Standing.HIGHER
    if offered.placement_epoch != highest.placement_epoch:
        higher = offered.placement_epoch > highest.placement_epoch
        return Standing.HIGHER if higher else Standing.LOWER
    if offered.controller != highest.controller:
        return Standing.LOWER
    theirs = (offered.incarnation, offered.fencing_token)
    ours = (highest.incarnation, highest.fencing_token)
    if theirs == ours:
        return Standing.EQUAL
    return Standing.HIGHER if theirs > ours else Standing.LOWER
