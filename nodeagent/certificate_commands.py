"""The commands by which a machine comes by a certificate: `souverix-node enrol` and `souverix-node recover`.

Owns their options and help; decides nothing.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from nodeagent.enrolling import enrol_into, pinned_roots, recover_in
from nodeagent.errors import SettingsInvalid
from nodeagent.exit_codes import with_exit_code
from nodeagent.settings import checked_enrolment, checked_node, split_addresses
from trust.files import IDENTITY_FILE

DEFAULT_WAIT_S = 3600.0
"""How long `enrol` waits for approval unless told otherwise: an operator who is called."""

DEFAULT_TIMEOUT_S = 60.0
"""How long `recover` tries."""

MAX_TOKEN_BYTES = 4096
"""Longest file of a token: one line of some 150 characters."""

_controller_option = click.option(
    "--controller",
    "controllers",
    multiple=True,
    required=True,
    metavar="HOST:PORT[,…]",
    help="Enrolment listeners of the domain's controller, tried in turn.",
)
_tls_option = click.option(
    "--tls",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="Directory for identity.pem and roots.pem, as `run --tls` takes it.",
)


@click.command()
@click.option(
    "--node", required=True, metavar="ID", help="Id of this node, or of the relay's node."
)
@_controller_option
@click.option(
    "--token",
    metavar="TEXT",
    help="The token. Others on this machine may see it in the list of processes.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="File whose first line is the token; - is standard input.",
)
@click.option(
    "--root-fingerprint",
    default="",
    metavar="HEX",
    help="SHA-256 of the root, as it was told with the token.",
)
@click.option(
    "--roots",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="In its place, PEM file of the trusted roots. Default: roots.pem in the directory, if it is there.",
)
@_tls_option
@click.option("--replace", is_flag=True, help="Put it in place of a certificate that is there.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=DEFAULT_WAIT_S,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for an answer and, if the token needs it, for approval.",
)
def enrol(
    node: str,
    controllers: tuple[str, ...],
    token: str | None,
    token_file: Path | None,
    root_fingerprint: str,
    roots: Path | None,
    directory: Path,
    replace: bool,
    wait_s: float,
) -> None:
    """Come by a certificate with a one-time token.

    The private key is made here and never leaves this machine. The controller must prove that it is that of the token's
    domain, under the root that is named, before it is shown the token. If somebody must approve first, this waits;
    ended and run again with the same options it goes on.

    \b
    Somebody who may makes the token and reads you both lines:
      souverixctl enrolment token create --node edge-7
    On the machine:
      souverix-node enrol --node edge-7 --controller 192.0.2.7:7444 --token-file token --root-fingerprint HEX --tls tls
      souverix-node run --node edge-7 --controller 192.0.2.7:7443 --tls tls --state-dir /var/lib/souverix-node
    """

    def start() -> None:
        if (directory / IDENTITY_FILE).exists() and not replace:
            raise SettingsInvalid(
                f"{directory / IDENTITY_FILE} is there: this machine has a certificate. Add --replace to enrol anew, "
                "or renew an expired one by souverix-node recover"
            )
        asyncio.run(
            enrol_into(
                directory,
                _checked(controllers),
                _token(token, token_file),
                checked_node(node),
                pinned_roots(directory, root_fingerprint, roots),
                wait_s,
                click.echo,
            )
        )

    with_exit_code(start)


@click.command()
@_controller_option
@_tls_option
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0),
    default=DEFAULT_TIMEOUT_S,
    show_default=True,
    metavar="SECONDS",
    help="How long to try.",
)
def recover(controllers: tuple[str, ...], directory: Path, timeout_s: float) -> None:
    """Have a certificate that expired while this machine was away issued anew.

    The old key proves whose it was; within 90 days of its end, unless the controller is set otherwise.
    `run --enrolment` does this by itself.

    \b
      souverix-node recover --controller 192.0.2.7:7444 --tls tls
    """
    with_exit_code(
        lambda: asyncio.run(recover_in(directory, _checked(controllers), timeout_s, click.echo))
    )


def _checked(controllers: tuple[str, ...]) -> tuple[str, ...]:
    addresses = checked_enrolment({"enrolment": split_addresses(controllers)})
    if not addresses:
        raise SettingsInvalid("no controller is named: add --controller HOST:PORT")
    return addresses


def _token(text: str | None, file: Path | None) -> str:
    if (text is None) == (file is None):
        raise SettingsInvalid("the token is given by --token-file, or by --token")
    if text is not None:
        return text.strip()
    if str(file) == "-":
        return sys.stdin.readline(MAX_TOKEN_BYTES).strip()
    try:
        with open(str(file), encoding="ascii") as lines:
            return lines.readline(MAX_TOKEN_BYTES).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsInvalid(f"{file} cannot be read: {error}") from error
