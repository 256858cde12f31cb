"""The command `souverix-node`.

Owns options and help of what runs; decides nothing else.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

if "GRPC_VERBOSITY" not in os.environ:
    os.environ["GRPC_VERBOSITY"] = "ERROR"  # read once, when grpc is imported

from nodeagent import AGENT_VERSION
from nodeagent.agent import NodeSettings
from nodeagent.certificate_commands import enrol, recover
from nodeagent.errors import SettingsInvalid
from nodeagent.exit_codes import with_exit_code
from nodeagent.link import DEFAULT_HEARTBEAT_S
from nodeagent.logs import set_up_logs
from nodeagent.process import run_node
from nodeagent.relay import RelaySettings, run_relay
from nodeagent.reporter import DEFAULT_INTERVAL_S
from nodeagent.settings import (
    KINDS,
    Settings,
    checked_listen,
    checked_node,
    merged,
    node_settings,
    read_file,
    split_addresses,
    telemetry_settings,
    tls_files,
)
from nodeagent.simulated_fleet import FleetSettings, run_fleet
from nodeagent.simulated_temper import SCENARIOS
from nodeagent.status import lines, read_status
from nodeagent.telemetry import RELAY_SERVICE_NAME, begin_telemetry

MAX_SIMULATED = 20_000
"""Simulated nodes in one process: one event loop serves no more in good time."""

MAX_SIMULATED_RELAYS = 100
"""Relays of a simulated fleet: hundreds of nodes each."""

MAX_LOGGED = 100
"""Simulated nodes whose log lines people can still read."""

Command = TypeVar("Command", bound=Callable[..., Any])


def _shared_options(command: Command) -> Command:
    options = (
        click.option(
            "--config",
            type=click.Path(path_type=Path),
            help="TOML file with the same settings; options here go before it.",
        ),
        click.option(
            "--controller",
            "controllers",
            multiple=True,
            metavar="HOST:PORT[,…]",
            help="Replicas of the controller, tried in turn. Loopback only, until TLS. May be repeated.",
        ),
        click.option(
            "--enrolment",
            "enrolment",
            multiple=True,
            metavar="HOST:PORT[,…]",
            help="Enrolment listeners, where the certificate is recovered if it ended while the node was away.",
        ),
        click.option(
            "--state-dir",
            type=click.Path(path_type=Path),
            help="Where backlog, ledger and configuration are kept. Made if missing.",
        ),
        click.option(
            "--tls",
            metavar="DIR",
            help="Directory of identity.pem and roots.pem: dial by mutual TLS. The certificate is renewed in time. "
            "[in clear, on loopback only]",
        ),
        click.option("--kind", type=click.Choice(list(KINDS)), help="What the node is. [edge]"),
        click.option("--component-type", metavar="NAME", help="Component the node runs."),
        click.option("--region", metavar="NAME", help="Region it stands in, for people."),
        click.option("--zone", metavar="NAME", help="Zone it stands in, for people."),
        click.option("--tag", "tags", multiple=True, metavar="WORD", help="Word to find it by."),
        click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="Named value."),
        click.option(
            "--software-version",
            metavar="TEXT",
            help="Version of the software the node runs, as reported.",
        ),
        click.option(
            "--measure",
            "measured_files",
            multiple=True,
            metavar="PATH",
            help="File whose content the node attests (docs/attestation.md). May be repeated.",
        ),
        click.option(
            "--heartbeat",
            "heartbeat_s",
            type=float,
            metavar="SECONDS",
            help=f"Heartbeat interval where the controller names none. [{DEFAULT_HEARTBEAT_S:g}]",
        ),
        click.option(
            "--report-interval",
            "report_interval_s",
            type=float,
            metavar="SECONDS",
            help=f"Time between reports. An applied configuration is reported at once. [{DEFAULT_INTERVAL_S:g}]",
        ),
        click.option(
            "--log-level",
            type=click.Choice(["info", "warning", "error"]),
            default="info",
            show_default=True,
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


_otlp_option = click.option(
    "--otlp-endpoint",
    metavar="URL",
    help="Where traces and metrics are sent, such as http://127.0.0.1:4317; more in [telemetry] of the file. [nowhere]",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(AGENT_VERSION, prog_name="souverix-node")
def main() -> None:
    """The Souverix node agent.

    It keeps one stream to the controller of its domain: it says who it is, sends signs of life and reports, and
    carries out commands. Reports and results wait in the state directory while no controller answers, and are
    sent in order when one does.

    \b
    Come by a certificate with a token, once:
      souverix-node enrol --node edge-7 --controller 192.0.2.7:7444 --token-file token --root-fingerprint HEX --tls tls
    Report this host to a controller:
      souverix-node run --node edge-7 --controller 127.0.0.1:7443 --state-dir /var/lib/souverix-node
    See what the agent knows, also while it runs:
      souverix-node status --state-dir /var/lib/souverix-node
    Carry many nodes to their controller over one stream:
      souverix-node relay --node relay-7 --listen 127.0.0.1:7600 --controller 127.0.0.1:7443 --state-dir /var/lib/relay
    Sixty made-up nodes for a demonstration:
      souverix-node simulate --nodes 60 --prefix edge-a1- --controller 127.0.0.1:7443
    """


@main.command()
@click.option(
    "--node",
    metavar="ID",
    help="Id of this node. Known from the state directory after the first run.",
)
@click.option("--display-name", metavar="TEXT", help="Name for people.")
@_otlp_option
@_shared_options
def run(node: str | None, config: Path | None, log_level: str, **options: Any) -> None:
    """Be the agent of this host until SIGTERM or SIGINT.

    Starts whether or not a controller answers. Of several addresses the one that answers as master is kept.
    """
    set_up_logs(log_level)

    def start() -> None:
        settings = _gathered(config, {"node": node, **options})

        def settings_of(known_node: str | None) -> NodeSettings:
            chosen = settings.get("node") or known_node
            if not isinstance(chosen, str):
                raise SettingsInvalid("which node is this? Add --node ID, or node in the file")
            return node_settings(settings, chosen)

        if settings.get("node"):
            settings_of(None)
        told = telemetry_settings(settings)
        asyncio.run(
            run_node(
                settings_of,
                _state_dir(settings),
                lambda node: begin_telemetry(told, node),
                tls_files(settings),
            )
        )

    with_exit_code(start)


@main.command()
@click.option("--node", metavar="ID", help="Id of the relay's own node. Required.")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Where agents dial the relay. Without --tls loopback only. Required.",
)
@click.option("--display-name", metavar="TEXT", help="Name for people.")
@_otlp_option
@_shared_options
def relay(
    node: str | None, listen: str | None, config: Path | None, log_level: str, **options: Any
) -> None:
    """Carry the streams of many nodes to their controller over one, until SIGTERM or SIGINT.

    Agents dial it as they would dial the controller (--controller HOST:PORT of the relay). It passes on what both
    say and answers nothing itself. While its controller cannot be reached, it keeps the reports that nodes hand over,
    and brings them first when it can be reached again. Its own host is a node too, of kind relay, that comes by
    the same way.

    \b
    A relay for a site, and an agent behind it:
      souverix-node relay --node relay-7 --listen 127.0.0.1:7600 --controller 127.0.0.1:7443 --state-dir /var/lib/relay
      souverix-node run --node edge-7 --controller 127.0.0.1:7600 --state-dir /var/lib/souverix-node
    """
    set_up_logs(log_level)

    def start() -> None:
        settings = _gathered(config, {"node": node, "listen": listen, **options})
        settings.setdefault("kind", "relay")
        name = settings.get("node")
        if not isinstance(name, str):
            raise SettingsInvalid("which relay is this? Add --node ID, or node in the file")
        relay_settings = RelaySettings(
            node_settings(settings, name), checked_listen(settings), tls_files(settings)
        )
        told = telemetry_settings(settings)
        asyncio.run(
            run_relay(
                relay_settings,
                _state_dir(settings),
                lambda: begin_telemetry(told, name, RELAY_SERVICE_NAME),
            )
        )

    with_exit_code(start)


@main.command()
@click.option(
    "--nodes",
    "--count",
    "count",
    type=click.IntRange(1, MAX_SIMULATED),
    required=True,
    help="How many nodes.",
)
@click.option("--prefix", default="sim-", show_default=True, help="What their ids begin with.")
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Same seed, same made-up hosts and behaviour.",
)
@click.option(
    "--scenario",
    type=click.Choice(list(SCENARIOS)),
    default="calm",
    show_default=True,
    help="How they behave; see above.",
)
@click.option(
    "--relays", type=click.IntRange(1, MAX_SIMULATED_RELAYS), help="Go through so many relays."
)
@click.option("--streams", is_flag=True, help="Go by a stream each. [the default]")
@click.option(
    "--register",
    "registers",
    is_flag=True,
    help="Register the nodes first: a large fleet is there at once, where enrolment is slow or closed.",
)
@click.option(
    "--authority",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="With --tls: the directory of the domain's authority (ca.pem, ca-key.pem in clear), which issues the made-up "
    "nodes' certificates. For trying out only.",
)
@_shared_options
def simulate(
    count: int,
    prefix: str,
    seed: int,
    scenario: str,
    relays: int | None,
    streams: bool,
    registers: bool,
    authority: Path | None,
    config: Path | None,
    log_level: str,
    **options: Any,
) -> None:
    """Be the agents of many made-up nodes, in one process, until SIGTERM or SIGINT.

    They are real agents that speak the real protocol to a real controller, and carry out commands; only their hosts
    are made up. Ids are PREFIX and a number, as in edge-a1-01. A line of progress is printed every two seconds. Up to
    a hundred nodes each log for themselves; larger fleets log errors only.

    Without --state-dir nothing is kept: a fleet that is started again begins anew. With it, each node has its own
    durable state, as a real one has.

    \b
    Scenarios (times and nodes follow from the seed):
      calm      every node does its duty
      outages   half of the nodes are cut off now and then, for 5 to 40 s
      slow      a third of the nodes are a second or more away
      upgrades  a version that is declared comes into force, and is reported
      unruly    a tenth break the protocol: late, twice, out of order, garbage;
                their label "simulated" says which
      mixed     some of everything

    \b
    A hundred nodes with outages and upgrades, the same each time:
      souverix-node simulate --nodes 100 --seed 7 --scenario mixed --controller 127.0.0.1:7443
    Five thousand nodes through four relays:
      souverix-node simulate --nodes 5000 --relays 4 --register --controller 127.0.0.1:7443
    """
    set_up_logs("error" if count > MAX_LOGGED and log_level == "info" else log_level)

    def start() -> None:
        if relays and streams:
            raise SettingsInvalid("--relays and --streams exclude one another: name one of them")
        settings = _gathered(config, options)
        if bool(settings.get("tls")) != (authority is not None):
            raise SettingsInvalid(
                "--tls and --authority go together: by TLS each made-up node proves itself by a certificate of its own"
            )
        width = len(str(count))
        nodes = [checked_node(f"{prefix}{number:0{width}}") for number in range(1, count + 1)]
        state_dir = settings.get("state_dir")
        fleet = FleetSettings(
            shared=node_settings(settings, nodes[0]),
            nodes=nodes,
            seed=seed,
            scenario=scenario,
            relays=relays or 0,
            state_dir=Path(str(state_dir)) if state_dir else None,
            registers=registers,
            tell=click.echo,
            tls=Path(str(settings["tls"])) if settings.get("tls") else None,
            authority=authority,
        )
        asyncio.run(run_fleet(fleet))

    with_exit_code(start)


@main.command()
@click.option("--state-dir", type=click.Path(path_type=Path), required=True)
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON list.")
def status(state_dir: Path, as_json: bool) -> None:
    """Print what a state directory knows: node, fence, backlog, ledger, configuration."""

    def show() -> None:
        nodes = read_status(state_dir)
        if as_json:
            click.echo(json.dumps(nodes, indent=2))
        else:
            for node in nodes:
                click.echo("\n".join(lines(node)))

    with_exit_code(show)


def _gathered(config: Path | None, options: dict[str, Any]) -> Settings:
    addresses, listeners = (split_addresses(options[name]) for name in ("controllers", "enrolment"))
    pairs = [label.partition("=") for label in options["labels"]]
    if any(not name or not equals for name, equals, _ in pairs):
        raise SettingsInvalid("a label is NAME=VALUE, as in --label rack=12")
    named: Settings = {
        **options,
        "controllers": addresses,
        "enrolment": listeners,
        "tags": list(options["tags"]),
        "measured_files": list(options["measured_files"]),
        "labels": {name: value for name, _, value in pairs},
    }
    return merged(read_file(config) if config else {}, named)


def _state_dir(settings: Settings) -> Path:
    state_dir = settings.get("state_dir")
    if not state_dir:
        raise SettingsInvalid(
            "where is the state kept? Add --state-dir DIR, or state_dir in the file"
        )
    return Path(str(state_dir))


main.add_command(enrol)
main.add_command(recover)


if __name__ == "__main__":
    main()
