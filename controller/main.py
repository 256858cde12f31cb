"""The command `souverix-controller`. Owns arguments and exit codes; the work is `controller.app`'s."""

from __future__ import annotations

import dataclasses
import gc
import os
import sys
from pathlib import Path

if "GRPC_VERBOSITY" not in os.environ:
    os.environ["GRPC_VERBOSITY"] = (
        "NONE"  # Read once, when grpc is imported: its lines are no JSON.
    )

import click
import uvloop

from controller import app, logs
from controller.config import ConfigError
from controller.config_file import load_config
from controller.genesis import make_genesis
from controller.log.errors import LogError
from controller.signing import Ed25519Signer
from controller.store.errors import StoreError

#: Allocations between collections of the youngest generation, and collections between those of the older ones. Writes
#: and twins are tuples and bytes without cycles: at the interpreter's default (700, 10, 10) a fifth of the time of
#: batch writes goes into looking for cycles that are not there. The loop stands still meanwhile: half a millisecond for
#: each thousand objects. The oldest are all there are; a look at them takes seconds, and is left for hours.
GC_THRESHOLDS = (1_000, 1, 100_000)

#: Longest that another thread keeps the interpreter while the loop wants it: at the default (5 ms) whatever comes in
#: while the store writes waits so long, several times over.
SWITCH_INTERVAL_S = 0.0002

#: Exit code of a wrong configuration, as `sysexits.h` has it.
EXIT_CONFIG = 78


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="souverix-control-plane")
def main() -> None:
    """Serve one domain of a Souverix federation.

    \b
    A new federation:
      souverix-controller keygen --out root.pem
      souverix-controller keygen --out global.pem
      souverix-controller genesis --root-key root.pem --key global.pem \\
          --controller global-control --domain global --out genesis.bin
      souverix-controller run --config global.toml
    """


@main.command()
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    required=True,
    help="TOML file; see deploy/.",
)
@click.option(
    "--etcd-binary", default=None, help="etcd to start where no endpoints are configured."
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    default="info",
    show_default=True,
    help="Least severe messages to log.",
)
def run(path: Path, etcd_binary: str | None, log_level: str) -> None:
    """Run one replica of a controller until SIGTERM or SIGINT."""
    logs.set_up(log_level)
    gc.set_threshold(*GC_THRESHOLDS)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        config = load_config(path)
        if etcd_binary is not None:
            config = dataclasses.replace(
                config, log=dataclasses.replace(config.log, etcd_binary=etcd_binary)
            )
        uvloop.run(app.serve(config))
    except ConfigError as error:
        click.echo(f"souverix-controller: {error}", err=True)
        sys.exit(EXIT_CONFIG)
    except LogError as error:
        click.echo(f"souverix-controller: the event log: {error}", err=True)
        sys.exit(1)
    except StoreError as error:
        click.echo(f"souverix-controller: the store: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        click.echo(f"souverix-controller: {error}", err=True)
        sys.exit(1)


@main.command()
@click.option("--config", "path", type=click.Path(path_type=Path), required=True)
def check(path: Path) -> None:
    """Read a configuration file and say what is wrong with it."""
    try:
        config = load_config(path)
    except ConfigError as error:
        click.echo(f"souverix-controller: {error}", err=True)
        sys.exit(EXIT_CONFIG)
    click.echo(f"{path}: controller {config.controller.id} of domain {config.controller.domain}")


@main.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="PEM file to write.")
def keygen(out: Path) -> None:
    """Make an Ed25519 signing key, and print its public key for the parent's configuration."""
    signer = Ed25519Signer.generate()
    try:
        signer.save(out)
    except OSError as error:
        raise click.ClickException(f"{out}: {error.strerror}; nothing was changed") from error
    click.echo(signer.public_key.hex())


@main.command()
@click.option(
    "--root-key", type=click.Path(path_type=Path), required=True, help="PEM file of the root key."
)
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    required=True,
    help="PEM file of the root controller's key.",
)
@click.option("--controller", required=True, help="Id of the root controller.")
@click.option("--domain", default="global", show_default=True, help="Id of the root domain.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File to write.")
def genesis(root_key: Path, key: Path, controller: str, domain: str, out: Path) -> None:
    """Sign the beginning of a federation, and print the root public key for every configuration."""
    try:
        root = Ed25519Signer.load(root_key)
        signed = make_genesis(root, Ed25519Signer.load(key), controller, domain)
        with out.open("xb") as file:
            file.write(signed.SerializeToString())
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{error}; nothing was changed") from error
    click.echo(root.public_key.hex())


if __name__ == "__main__":
    main()
