"""How a command of `souverix-node` ends: 0 after a clean stop, 1 when the state directory or the other side fails, 2
when a person must act.

Owns the codes and the line that tells of a failure.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from nodeagent.errors import OperatorMustAct, StateUnavailable
from nodeagent.joining import JoiningUnavailable


def with_exit_code(action: Callable[[], None]) -> None:
    """Run `action`; tell its failure in a line. Failures of several tasks come in groups, hence `except*`."""
    code = 0
    try:
        action()
    except* OperatorMustAct as failures:
        click.echo(f"souverix-node: {failures.exceptions[0]}", err=True)
        code = 2
    except* (StateUnavailable, JoiningUnavailable) as failures:
        click.echo(f"souverix-node: {failures.exceptions[0]}", err=True)
        code = 1
    if code:
        sys.exit(code)
