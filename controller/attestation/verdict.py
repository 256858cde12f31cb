"""What a statement proves: its registers and key compared with what the domain expects and with what was believed or
accepted of the node. Owns the comparison; knows no states, no times and no events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from controller.attestation.policy import Expected
from controller.attestation.statement import Measurements
from controller.attestation.states import Evidence
from souverix.trust.v1 import attestation_pb2

#: Stands for the attester's key among the findings.
KEY: Final = "key"

_R = attestation_pb2.FindingReason


@dataclass(frozen=True, slots=True)
class Baseline:
    """What was believed at first or accepted of one node. An empty key: none was."""

    registers: Mapping[str, str] = field(default_factory=dict)
    public_key: bytes = b""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with one register, or with the key."""

    register: str
    reason: int
    measured: str = ""
    expected: str = ""

    @property
    def words(self) -> str:
        """ "agent.program NOT_AS_PINNED"."""
        name = attestation_pb2.FindingReason.Name(self.reason)
        return f"{self.register} {name.removeprefix('FINDING_REASON_')}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a statement proves."""

    evidence: Evidence
    findings: tuple[Finding, ...]
    #: The baseline with what is believed now for the first time; None: nothing is.
    believed: Baseline | None


def judge(said: Measurements, expected: Expected, baseline: Baseline) -> Verdict:
    """Compares a statement with what is expected.

    Something is believed for the first time only where all the rest holds: what contradicts a rule fixes nothing.
    """
    if not expected.is_anything and not baseline.public_key:
        return Verdict(Evidence.NOT_JUDGED, (), None)
    findings = _findings(said, expected, baseline)
    if findings:
        return Verdict(Evidence.CONTRADICTS, tuple(findings), None)
    if not expected.is_anything:
        return Verdict(Evidence.NOT_JUDGED, (), None)
    new = {name: said.registers[name] for name in expected.pinned if name not in baseline.registers}
    believed = None
    if new or not baseline.public_key:
        believed = Baseline({**baseline.registers, **new}, baseline.public_key or said.public_key)
    return Verdict(Evidence.HOLDS, (), believed)


def accepted(
    registers: Mapping[str, str], public_key: bytes, expected: Expected, baseline: Baseline
) -> Baseline:
    """The baseline once somebody has accepted what was measured: of the registers that are pinned."""
    kept = {n: v for n, v in baseline.registers.items() if n not in expected.pinned}
    new = {name: registers[name] for name in expected.pinned if name in registers}
    return Baseline({**kept, **new}, public_key)


def forbidden(registers: Mapping[str, str], expected: Expected) -> list[str]:
    """Registers whose values the domain's rules do not allow, or that are expected and missing: no acceptance helps."""
    broken = {name for name, allowed in expected.rules if registers.get(name) not in allowed}
    return sorted(broken | {name for name in expected.pinned if name not in registers})


def _findings(said: Measurements, expected: Expected, baseline: Baseline) -> list[Finding]:
    findings: dict[str, Finding] = {}
    if baseline.public_key and baseline.public_key != said.public_key:
        findings[KEY] = Finding(
            KEY, _R.FINDING_REASON_OTHER_KEY, said.public_key.hex(), baseline.public_key.hex()
        )
    for name, allowed in expected.rules:
        if name not in said.registers:
            findings[name] = Finding(name, _R.FINDING_REASON_MISSING)
        elif said.registers[name] not in allowed:
            only = next(iter(allowed)) if len(allowed) == 1 else ""
            findings[name] = Finding(
                name, _R.FINDING_REASON_NOT_ALLOWED, said.registers[name], only
            )
    for name in sorted(expected.pinned - findings.keys()):
        pinned = baseline.registers.get(name, "")
        if name not in said.registers:
            findings[name] = Finding(name, _R.FINDING_REASON_MISSING, expected=pinned)
        elif pinned and said.registers[name] != pinned:
            findings[name] = Finding(
                name, _R.FINDING_REASON_NOT_AS_PINNED, said.registers[name], pinned
            )
    return [findings[name] for name in sorted(findings)]
