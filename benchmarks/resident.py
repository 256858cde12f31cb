"""Memory of a process, as the system sees it."""

from __future__ import annotations

import re
from pathlib import Path


def resident_mib(pid: int | str = "self") -> int:
    """Resident memory of a process, this one unless another is named."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
    assert found
    return int(found[1]) // 1024
