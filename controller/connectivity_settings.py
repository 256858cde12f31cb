"""The section [connectivity] of a controller's configuration. Owns its shape, defaults and checks; what the settings
mean is `controller.connectivity.thresholds`'s.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

from controller.connectivity import thresholds
from federation.identifiers import is_valid_id


@dataclass(frozen=True, slots=True)
class DomainConnectivitySection:
    """Evidence that changes the modes of one domain's nodes; what is not set is as for all."""

    domain: str
    delayed_rtt_s: float | None = None
    live_rtt_share: float | None = None
    rtt_settle_s: float | None = None
    autonomous_after_s: float | None = None
    disconnected_after_s: float | None = None
    steady_after_s: float | None = None
    replay_backlog: int | None = None


@dataclass(frozen=True, slots=True)
class ConnectivitySection:
    """How much evidence changes a node's place on the connectivity spectrum; the reasons are with the defaults."""

    delayed_rtt_s: float = thresholds.DELAYED_RTT_S
    live_rtt_share: float = thresholds.LIVE_RTT_SHARE
    rtt_settle_s: float = thresholds.RTT_SETTLE_S
    autonomous_after_s: float = thresholds.AUTONOMOUS_AFTER_S
    disconnected_after_s: float = thresholds.DISCONNECTED_AFTER_S
    steady_after_s: float = thresholds.STEADY_AFTER_S
    replay_backlog: int = thresholds.REPLAY_BACKLOG
    domains: tuple[DomainConnectivitySection, ...] = ()

    def of_all(self) -> thresholds.Thresholds:
        """The thresholds of domains that have none of their own."""
        return thresholds.Thresholds(**{n: getattr(self, n) for n in _THRESHOLDS})

    def of_domains(self) -> dict[str, thresholds.Thresholds]:
        """The thresholds of the domains that have their own."""
        own = {
            section.domain: {
                n: value for n in _THRESHOLDS if (value := getattr(section, n)) is not None
            }
            for section in self.domains
        }
        return {domain: dataclasses.replace(self.of_all(), **set_) for domain, set_ in own.items()}


_THRESHOLDS = tuple(f.name for f in dataclasses.fields(thresholds.Thresholds))


def connectivity_problems(section: ConnectivitySection) -> Iterator[str]:
    """What is wrong with the section, in words."""
    named = [part.domain for part in section.domains]
    for i, domain in enumerate(named):
        place = f"connectivity.domains[{i}].domain {domain!r}"
        if not is_valid_id(domain):
            yield f"{place} is no id (lower-case letters, digits and '-', at most 63)"
        if domain in named[:i]:
            yield f"{place} is there already"
    yield from _threshold_problems("connectivity", section.of_all())
    for domain, limits in section.of_domains().items():
        yield from _threshold_problems(f"connectivity.domains[{named.index(domain)}]", limits)


def _threshold_problems(place: str, limits: thresholds.Thresholds) -> Iterator[str]:
    for setting in _THRESHOLDS:
        value = getattr(limits, setting)
        least = 1 if setting == "replay_backlog" else 0
        if not least <= value < math.inf:
            yield f"{place}.{setting} {value} is out of range; at least {least} is needed"
    if not 0 < limits.live_rtt_share <= 1:
        yield f"{place}.live_rtt_share {limits.live_rtt_share} is not a share: above 0, at most 1"
    if limits.disconnected_after_s < limits.autonomous_after_s:
        yield (
            f"{place}.disconnected_after_s is below autonomous_after_s: a node is cut off before it is given up"
        )
