"""The console command `souverixctl`: puts the verbs together, and ends a run with its exit code.

Owns the program's own help and the last words of a failed run. Never shows a traceback for what an
operator can bring about.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

if "GRPC_VERBOSITY" not in os.environ:
    os.environ["GRPC_VERBOSITY"] = "NONE"  # read once, when grpc is imported; errors are told by us

import click
import grpc
from click.shell_completion import get_completion_class

from souverixctl import (
    access,
    artifacts,
    attention,
    attestation,
    audit,
    authority,
    bundle,
    certificates,
    commands,
    components,
    conflicts,
    drift,
    enrolment,
    federation,
    graph,
    lifecycle,
    node,
    nodes,
    observations,
    overview,
    pki,
    replays,
    verbs,
)
from souverixctl import desired_state as desired_state  # adds its verb to `set`
from souverixctl import domains as domains  # adds its verbs
from souverixctl import federation_trust as federation_trust  # adds its verbs to `federation`
from souverixctl import node_writes as node_writes  # adds its verbs
from souverixctl import policies as policies  # adds its verbs
from souverixctl import relationships as relationships  # adds its verbs
from souverixctl.errors import EXIT_CODE_MEANINGS, CtlError, ExitCode
from souverixctl.output import Format, Output
from souverixctl.session import Verbs, global_options, session_of

PROGRAM = "souverixctl"
COMPLETION_VARIABLE = "_SOUVERIXCTL_COMPLETE"

EXAMPLES = """\b
Examples:
  export SOUVERIX_SERVER=127.0.0.1:7400
  souverixctl federation status
  souverixctl overview
  souverixctl attention --domain region-a --subtree
  souverixctl get nodes --domain region-a --subtree
  souverixctl set desired-state a1-gw-1 --version 2.1.0 --wait-durable global
  souverixctl command ping --domain edge-zone-a1 --wait
  souverixctl watch conflicts -o json
  souverixctl audit verify --all-lanes
"""
EXIT_CODES = "\b\nExit codes:\n" + "\n".join(
    f"  {code.value:<3}  {meaning}" for code, meaning in EXIT_CODE_MEANINGS.items()
)


class Program(Verbs):
    """The program: its groups are listed in the order people need them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order they were added."""
        return list(self.commands)


@click.group(
    cls=Program,
    help="Operate a Souverix federation: ask one of its controllers, over gRPC.\n\n"
    "Every option below is also taken after a verb. Results go to stdout, notes and errors to"
    " stderr.\n\n"
    "A DURATION is a number with a unit, ms, s, m, h or d: 90s, 3.75h, 1h30m.\n\n" + EXAMPLES,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    params=[*global_options(hidden=False)],
)
def program() -> None:
    """Nothing but options: the verbs act."""


for group in (
    overview.overview, nodes.nodes_verb, node.node_verb,
    attention.group, verbs.get, verbs.describe, verbs.watch, verbs.create, verbs.set_, verbs.delete,
    verbs.move, lifecycle.transition, lifecycle.history, replays.replay, replays.reset_key, commands.group,
    drift.group, graph.group, conflicts.group,
    audit.group, federation.group, bundle.group, authority.group, observations.values,
    artifacts.group, artifacts.policy_group, components.who_runs, components.sbom_group, components.hardware,
    access.group, attestation.group, enrolment.group, certificates.group, pki.group,
):  # fmt: skip
    program.add_command(group)


@program.command("completion", short_help="Print a shell completion script.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash:  source <(souverixctl completion bash)
    zsh:   source <(souverixctl completion zsh)
    fish:  souverixctl completion fish | source
    """
    completer = get_completion_class(shell)
    if completer is None:
        raise AssertionError(f"click has no completion for {shell}")
    click.echo(completer(program, {}, PROGRAM, COMPLETION_VARIABLE).source())


@program.command("version", short_help="Print the version.")
@click.pass_context
def version(context: click.Context) -> None:
    """Print the version of this program; `federation status` shows the controller's."""
    own = metadata.version("souverix-control-plane")
    output = session_of(context).output
    if output.is_table:
        output.line(f"{PROGRAM} {own} (gRPC {grpc.__version__})")
    else:
        output.document({"souverixctl": own, "grpc": grpc.__version__})


def run(arguments: Sequence[str]) -> int:
    """One invocation. Returns the exit code."""
    color = "--no-color" not in arguments
    try:
        program.main(
            args=list(arguments),
            prog_name=PROGRAM,
            complete_var=COMPLETION_VARIABLE,
            standalone_mode=False,
        )
    except CtlError as error:
        Output(Format.TABLE, color=color).error(error)
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        return ExitCode.USAGE
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except (click.Abort, KeyboardInterrupt):
        Output(Format.TABLE, color=color).note("interrupted")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output is gone; what is left in the buffer has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    return ExitCode.OK


def main() -> None:
    """Entry point of the console command."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal without UTF-8 shows "?" for what it lacks; the run goes on.
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
