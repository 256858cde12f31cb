"""Made-up statements, policies and records of attestation."""

from __future__ import annotations

from collections.abc import Mapping

from controller.attestation.policy import Expected
from controller.attestation.statement import Measurements
from souverix.trust.v1 import attestation_pb2

KEY, OTHER_KEY = b"\x0a" * 32, b"\x0b" * 32
NOW_MS = 1_800_000_000_000
MAX_AGE_MS = 3 * 3_600_000


def value(number: int) -> str:
    return f"sha256:{number:064x}"


def said(key: bytes = KEY, /, **registers: int) -> Measurements:
    """A statement whose registers hold values by number."""
    values = {name: value(number) for name, number in registers.items()}
    return Measurements(
        values, "ed25519", key, "run-1", NOW_MS, lambda name: [(f"{name}.file", values[name])]
    )


def expected(
    *pinned: str,
    on_failure: int = attestation_pb2.FAILURE_ACTION_ATTENTION,
    rules: Mapping[str, set[int]] | None = None,
) -> Expected:
    """What is expected: registers that are pinned, and rules by register."""
    made = tuple((name, frozenset(map(value, allowed))) for name, allowed in (rules or {}).items())
    return Expected(made, frozenset(pinned), 3_600_000, MAX_AGE_MS, on_failure)
