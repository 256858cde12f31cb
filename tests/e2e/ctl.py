"""The real `souverixctl`, run as a user would. Owns runs and how they end; knows no verb."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from tests.e2e.clients import DEADLINE_S


@dataclass
class Printed:
    """How one run ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be one JSON document."""
        return json.loads(self.out)


class Ctl:
    """Runs the program against one controller, as a user would."""

    def __init__(self, server: str, **environment: str) -> None:
        self.server = server
        self._more = environment

    def __call__(self, *arguments: str, code: int = 0, stdin: str = "") -> Printed:
        """One run, which must end with this exit code."""
        finished = subprocess.run(
            self._command(*arguments),
            env=self._environment(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S * 2,
            check=False,
        )
        printed = Printed(finished.returncode, finished.stdout, finished.stderr)
        assert printed.code == code, printed
        assert "Traceback" not in printed.err, printed
        return printed

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A run that goes on, such as a watch."""
        return subprocess.Popen(
            self._command(*arguments),
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "souverixctl.main", *arguments]

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return kept | {
            "SOUVERIX_SERVER": self.server,
            "SOUVERIX_PRINCIPAL": "user:operator",
            "COLUMNS": "200",
            **self._more,
        }
