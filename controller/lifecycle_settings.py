"""The section [lifecycle] of a controller's configuration. Owns its shape, defaults and checks; what the settings mean
is `controller.lifecycle.evidence`'s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from controller.lifecycle import evidence
from federation.identifiers import is_valid_id

AUTOMATIC = "automatic"
BY_OPERATOR = "by-operator"

_CHOICES = (AUTOMATIC, BY_OPERATOR)
_DECIDED = ("enrolment", "activation", "health")
_SPANS = ("degrade_after_s", "recover_after_s")


@dataclass(frozen=True, slots=True)
class LifecycleDomainSection:
    """Who moves the nodes of one domain on; what is not set is as for all."""

    domain: str
    enrolment: str | None = None
    activation: str | None = None
    health: str | None = None
    degrade_after_s: float | None = None
    recover_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class LifecycleSection:
    """Who moves nodes on in their lives: evidence ("automatic") or people and programs ("by-operator")."""

    enrolment: str = AUTOMATIC
    activation: str = AUTOMATIC
    health: str = AUTOMATIC
    degrade_after_s: float = evidence.DEGRADE_AFTER_S
    recover_after_s: float = evidence.RECOVER_AFTER_S
    domains: tuple[LifecycleDomainSection, ...] = ()

    def of_all(self) -> evidence.Automation:
        """What holds in domains that have nothing of their own."""
        return _automation({name: getattr(self, name) for name in (*_DECIDED, *_SPANS)})

    def of_domains(self) -> dict[str, evidence.Automation]:
        """What holds in the domains that have something of their own."""
        found = {}
        for section in self.domains:
            own = {name: getattr(section, name) for name in (*_DECIDED, *_SPANS)}
            found[section.domain] = _automation(
                {n: getattr(self, n) if value is None else value for n, value in own.items()}
            )
        return found


def lifecycle_problems(section: LifecycleSection) -> Iterator[str]:
    """What is wrong with the section, in words."""
    yield from _setting_problems("lifecycle", section)
    named = [part.domain for part in section.domains]
    for i, part in enumerate(section.domains):
        place = f"lifecycle.domains[{i}]"
        if not is_valid_id(part.domain):
            yield (
                f"{place}.domain {part.domain!r} is no id (lower-case letters, digits and '-', at "
                "most 63)"
            )
        if part.domain in named[:i]:
            yield f"{place}.domain {part.domain!r} is there already"
        yield from _setting_problems(place, part)


def _setting_problems(
    place: str, section: LifecycleSection | LifecycleDomainSection
) -> Iterator[str]:
    for name in _DECIDED:
        word = getattr(section, name)
        if word is not None and word not in _CHOICES:
            yield f"{place}.{name} {word!r} is not one of {', '.join(_CHOICES)}"
    for name in _SPANS:
        span_s = getattr(section, name)
        if span_s is not None and not 0 <= span_s < math.inf:
            yield f"{place}.{name} {span_s} is out of range; at least 0 is needed"


def _automation(settings: dict[str, str | float]) -> evidence.Automation:
    return evidence.Automation(
        enrolment=settings["enrolment"] == AUTOMATIC,
        activation=settings["activation"] == AUTOMATIC,
        health=settings["health"] == AUTOMATIC,
        degrade_after_s=float(settings["degrade_after_s"]),
        recover_after_s=float(settings["recover_after_s"]),
    )
