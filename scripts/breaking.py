"""Checks that the protobuf contract breaks nothing that was promised before.

The promise is the contract at the point where this branch left `origin/main`; without such a
branch, the last commit. BREAKING_AGAINST names another commit.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def git(*arguments: str) -> bytes | None:
    """The output of a git command, or None when it fails."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None


def earlier_commit() -> str | None:
    """The commit whose contract this one must keep, if there is one."""
    asked_for = os.environ.get("BREAKING_AGAINST")
    if asked_for:
        return asked_for
    found = git("merge-base", "HEAD", "origin/main") or git("rev-parse", "--verify", "-q", "HEAD")
    return found.decode().strip() if found else None


def main() -> int:
    """Compare the contract with the earlier one; the exit status is buf's."""
    commit = earlier_commit()
    archive = git("archive", "--format=tar", commit, "proto", "buf.yaml") if commit else None
    if archive is None:
        print("buf breaking: skipped, there is no earlier contract to keep")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(["tar", "-x", "-C", scratch], input=archive, check=True)
        if not any(Path(scratch).rglob("*.proto")):
            print(f"buf breaking: skipped, {commit} has no contract")
            return 0
        buf = subprocess.run(["buf", "breaking", "--against", scratch], cwd=ROOT, check=False)
        if buf.returncode == 0:
            print(f"buf breaking: nothing broken since {commit}")
        return buf.returncode


if __name__ == "__main__":
    sys.exit(main())
