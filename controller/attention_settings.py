"""The section [attention] of a controller's configuration. Owns its shape, defaults and checks; what the settings mean
is `controller.attention.rules`'s.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from controller.attention import rules
from controller.attention.conditions import Kind, Severity
from federation.identifiers import is_valid_id


@dataclass(frozen=True, slots=True)
class AttentionKindSection:
    """What items of one kind weigh; 0: there are none."""

    kind: str
    weight: float


@dataclass(frozen=True, slots=True)
class AttentionDomainSection:
    """What items of one domain, and of those below it, weigh against others."""

    domain: str
    weight: float


@dataclass(frozen=True, slots=True)
class AttentionSeveritiesSection:
    """What an item of each severity weighs."""

    low: float = rules.SEVERITY_FACTORS[Severity.LOW]
    medium: float = rules.SEVERITY_FACTORS[Severity.MEDIUM]
    high: float = rules.SEVERITY_FACTORS[Severity.HIGH]
    critical: float = rules.SEVERITY_FACTORS[Severity.CRITICAL]


@dataclass(frozen=True, slots=True)
class AttentionSection:
    """What makes an item of the attention queue, and what it weighs; the reasons are with the defaults."""

    group_above: int = rules.GROUP_ABOVE
    age_doubles_after_s: float = rules.AGE_DOUBLES_AFTER_S
    age_cap: float = rules.AGE_CAP
    return_stuck_after_s: float = rules.RETURN_STUCK_AFTER_S
    update_stuck_after_s: float = rules.UPDATE_STUCK_AFTER_S
    decommission_stuck_after_s: float = rules.DECOMMISSION_STUCK_AFTER_S
    waiver_notice_s: float = rules.WAIVER_NOTICE_S
    flaps: int = rules.FLAPS
    flap_window_s: float = rules.FLAP_WINDOW_S
    node_backlog: int = rules.NODE_BACKLOG
    node_clock_ahead_s: float = rules.NODE_CLOCK_AHEAD_S
    node_clock_behind_s: float = rules.NODE_CLOCK_BEHIND_S
    controller_backlog: int = rules.CONTROLLER_BACKLOG
    controller_behind_s: float = rules.CONTROLLER_BEHIND_S
    controller_clock_off_s: float = rules.CONTROLLER_CLOCK_OFF_S
    stream_waits_after_s: float = rules.STREAM_WAITS_AFTER_S
    transfer_pending_after_s: float = rules.TRANSFER_PENDING_AFTER_S
    outcome_shown_for_s: float = rules.OUTCOME_SHOWN_FOR_S
    severities: AttentionSeveritiesSection = field(default_factory=AttentionSeveritiesSection)
    kinds: tuple[AttentionKindSection, ...] = ()
    domains: tuple[AttentionDomainSection, ...] = ()

    def limits(self) -> rules.Limits:
        """From when on something is worth an item."""
        return rules.Limits(**{n: getattr(self, n) for n in _LIMITS})

    def weights(self) -> rules.Weights:
        """What items weigh."""
        kinds = {kind.word: kind for kind in Kind}
        own = {kinds[each.kind]: each.weight for each in self.kinds}
        return rules.Weights(
            {**rules.KIND_WEIGHTS, **own},
            {severity: getattr(self.severities, severity.name.lower()) for severity in Severity},
            {each.domain: each.weight for each in self.domains},
            self.age_doubles_after_s,
            self.age_cap,
        )


_LIMITS = tuple(f.name for f in dataclasses.fields(rules.Limits))


def attention_problems(section: AttentionSection) -> Iterator[str]:
    """What is wrong with the section, in words."""
    known = [kind.word for kind in Kind]
    for i, kind in enumerate(section.kinds):
        if kind.kind not in known:
            yield f"attention.kinds[{i}].kind {kind.kind!r} is not one of {', '.join(known)}"
    for i, domain in enumerate(section.domains):
        if not is_valid_id(domain.domain):
            yield (
                f"attention.domains[{i}].domain {domain.domain!r} is no id (lower-case letters, digits and '-', at "
                "most 63)"
            )
    for name, value, least in _numbers(section):
        if not least <= value < math.inf:
            yield f"attention.{name} {value} is out of range; at least {least} is needed"


def _numbers(section: AttentionSection) -> Iterator[tuple[str, float, float]]:
    """Every number, with the least it may be."""
    counts = ("group_above", "flaps", "node_backlog", "controller_backlog")
    for name in (*counts, "age_doubles_after_s", "age_cap"):
        yield name, getattr(section, name), 1
    for name in _LIMITS:
        if name not in counts:
            yield name, getattr(section, name), 0
    for part in dataclasses.fields(section.severities):
        yield f"severities.{part.name}", getattr(section.severities, part.name), 0
    for i, kind in enumerate(section.kinds):
        yield f"kinds[{i}].weight", kind.weight, 0
    for i, domain in enumerate(section.domains):
        yield f"domains[{i}].weight", domain.weight, 0
