"""What it costs to know who is at the other end: the catch-up of `catchup`, by mutual TLS, beside the same in clear.

Two federations stand side by side, each with a zone's log of its own. In the one, every connection is by mutual TLS,
the zone's certificate is judged by the authority that the region's facts name, what is revoked is looked up, and roles
are enforced; in the other everything speaks in clear and nobody is held to a role. Chains, seals, keys and grants of
events are verified in both: that cannot be turned off. Runs alternate.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.catchup import EVENTS, catch_up
from benchmarks.cut_off_zone import cut_off, plans, start_zone
from benchmarks.report import RUNS, report, say
from benchmarks.zone_log import ZoneLogWriter
from deploy.local_federation import LocalFederation

OPERATOR = "user:operator"


def run() -> dict[str, Any]:
    """Events a second with certificates and roles, beside those without."""
    verified: list[float] = []
    plain: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="souverix-verified-catchup-") as path,
        ExitStack() as stack,
    ):
        one = LocalFederation(
            Path(path) / "verified", plans("manual"), secured=True, admins=[OPERATOR]
        )
        other = LocalFederation(Path(path) / "plain", plans("manual"))
        made = [(each, _made(stack.enter_context(each))) for each in (one, other)]
        for _ in range(RUNS):
            for (federation, written), rates in zip(made, (verified, plain), strict=True):
                rates.append(catch_up(federation, written))
            say(f"verified-catchup: {verified[-1]:,.0f} events/s, in clear {plain[-1]:,.0f}")
    return report(
        "verified-catchup",
        "events/s",
        verified,
        {"the same in clear, without roles": plain},
        baseline_runs=[round(rate) for rate in plain],
        events=EVENTS,
    )


def _made(federation: LocalFederation) -> ZoneLogWriter:
    """A zone that was cut off with its log, and waits for its region."""
    written = cut_off(federation, EVENTS)
    start_zone(federation)
    return written
