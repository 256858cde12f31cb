"""What fields of attestation requests may hold. Owns the limits and the wording of refusals; looks at one request only,
never at state.
"""

from __future__ import annotations

from typing import Final

from google.protobuf.duration_pb2 import Duration

from controller.attestation.statement import MAX_REGISTERS, REGISTER_PATTERN
from controller.services.fleet_fields import MAX_VALUE_BYTES
from controller.values import DIGEST_PATTERN
from federation.errors import InvalidWrite
from souverix.trust.v1 import attestation_pb2

#: Rules of one policy, and values of one rule: kernels and releases in use at a time, several times over.
MAX_RULES: Final = 64
MAX_ALLOWED: Final = 64

#: Challenges that come more often tell nothing new, and cost every node its measurements.
MIN_INTERVAL_MS: Final = 10_000
MAX_INTERVAL_MS: Final = 30 * 86_400_000
MAX_AGE_MS: Final = 90 * 86_400_000


def check_attestation_policy(spec: attestation_pb2.AttestationPolicySpec) -> None:
    """Raises `InvalidWrite` naming the field."""
    if spec.ByteSize() > MAX_VALUE_BYTES:
        raise InvalidWrite(
            f"spec is {spec.ByteSize()} bytes; at most {MAX_VALUE_BYTES} are allowed", field="spec"
        )
    if len(spec.rules) > MAX_RULES:
        raise InvalidWrite(f"spec.rules holds more than {MAX_RULES} rules", field="spec.rules")
    for number, rule in enumerate(spec.rules):
        _check_rule(rule, f"spec.rules[{number}]")
    if len(spec.pinned_registers) > MAX_REGISTERS:
        raise InvalidWrite(
            f"spec.pinned_registers holds more than {MAX_REGISTERS}", field="spec.pinned_registers"
        )
    for number, register in enumerate(spec.pinned_registers):
        _check_register(register, f"spec.pinned_registers[{number}]")
    if spec.on_failure not in attestation_pb2.FailureAction.values():
        raise InvalidWrite(
            "spec.on_failure is none that this version knows", field="spec.on_failure"
        )
    _check_times(spec)


def check_digest(digest: str, field: str) -> None:
    """Raises `InvalidWrite` naming the field."""
    if not DIGEST_PATTERN.fullmatch(digest):
        raise InvalidWrite(
            f"{field} {digest[:80]!r} is not of the form sha256: and 64 hexadecimal digits",
            field=field,
        )


def _check_rule(rule: attestation_pb2.RegisterRule, field: str) -> None:
    _check_register(rule.register, f"{field}.register")
    if not 1 <= len(rule.allowed) <= MAX_ALLOWED:
        raise InvalidWrite(
            f"{field}.allowed names 1 to {MAX_ALLOWED} values", field=f"{field}.allowed"
        )
    for number, value in enumerate(rule.allowed):
        check_digest(value, f"{field}.allowed[{number}]")


def _check_register(register: str, field: str) -> None:
    if not REGISTER_PATTERN.fullmatch(register):
        raise InvalidWrite(
            f"{field} {register[:80]!r} is no name of a register, such as agent.program (docs/attestation.md)",
            field=field,
        )


def _check_times(spec: attestation_pb2.AttestationPolicySpec) -> None:
    interval_ms = _milliseconds(spec.interval) if spec.HasField("interval") else None
    if interval_ms is not None and not MIN_INTERVAL_MS <= interval_ms <= MAX_INTERVAL_MS:
        raise InvalidWrite("spec.interval is 10 s to 30 days", field="spec.interval")
    if not spec.HasField("max_age"):
        return
    max_age_ms = _milliseconds(spec.max_age)
    least_ms = 2 * (interval_ms or MIN_INTERVAL_MS)
    if not least_ms <= max_age_ms <= MAX_AGE_MS:
        raise InvalidWrite(
            f"spec.max_age is {least_ms // 1000} s (twice the interval) to 90 days: what is renewed less often runs "
            "out between two challenges",
            field="spec.max_age",
        )


def _milliseconds(span: Duration) -> int:
    return span.seconds * 1000 + span.nanos // 1_000_000
