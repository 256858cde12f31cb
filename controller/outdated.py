"""What ends a replica's life so that it begins another at once: its state is to be made anew from the log."""

from __future__ import annotations

from federation.bounds import Foreknown


class StateOutdated(Exception):
    """A fact voids what is in effect here already, or ends this controller's own streams. Holds what the log is to be
    folded with; None where the state stands as it is. `own` says that what this controller wrote last may be void.
    """

    def __init__(self, foreknown: Foreknown | None, *, own: bool = False) -> None:
        super().__init__("what is in effect rests on something that was voided")
        self.foreknown = foreknown
        self.own = own
