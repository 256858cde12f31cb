"""Bundles as files, without a controller: inspect, verify, and the key they are encrypted to.

Owns how a file is shown. Judges it only as far as the file itself allows; what it means to a controller is for the
controller to say.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from airgap.encryption import recipient_key_id
from airgap.errors import BundleRefused
from airgap.reader import BundleReader
from souverix.bundle.v1 import bundle_pb2
from souverixctl.bundle import FILES, group, open_file, read_public_key
from souverixctl.errors import BadInput, NotIntact
from souverixctl.session import Session, pass_session
from trust.encryption_keys import encryption_key_pem, new_encryption_key, read_encryption_key
from trust.errors import KeyUnreadable
from trust.keys import MAX_KEY_BYTES


class _AnyKey:
    """Lets a manifest be read whose signature nobody here can judge."""

    def signature_is_good(
        self, controller: str, key_id: str, message: bytes, signature: bytes
    ) -> bool:
        """Always True: what is shown is said not to be verified."""
        return True


class _OneKey:
    """The exporter's key, as whoever verifies has it from elsewhere."""

    def __init__(self, public_key: bytes) -> None:
        self._key = Ed25519PublicKey.from_public_bytes(public_key)

    def signature_is_good(
        self, controller: str, key_id: str, message: bytes, signature: bytes
    ) -> bool:
        """Tells whether the key made the signature."""
        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


@group.command("inspect", short_help="Show what a bundle says of itself. Asks no controller.")
@FILES
@pass_session
def inspect(session: Session, files: Sequence[Path]) -> None:
    """Show manifests. Nothing is verified: whoever made the file chose what it says.

    \b
    souverixctl bundle inspect stick/region-b-control-to-edge-zone-b1-control-812.svxb
    """
    for path in files:
        with open_file(path) as file:
            try:
                manifest = BundleReader(file, _AnyKey()).manifest
            except BundleRefused as error:
                raise not_intact(path, error) from error
        if session.output.is_table:
            _show_manifest(session, path, manifest)
        else:
            session.output.step(manifest)


def not_intact(path: Path, error: BundleRefused) -> NotIntact:
    """What a refused file ends a run with."""
    return NotIntact(
        f"{path}: {error.reason.value}: {error}",
        "copy it again from where it was made, or export again",
    )


def _show_manifest(session: Session, path: Path, manifest: bundle_pb2.Manifest) -> None:
    events = sum(segment.events for segment in manifest.segments)
    session.output.line(f"{path}: not verified")
    session.output.line(
        f"  from {manifest.exporter} ({manifest.exporter_domain}) for {manifest.audience}"
        f" ({manifest.audience_domain})"
    )
    session.output.line(
        f"  set {manifest.set_id}, volume {manifest.volume} of {manifest.volumes}, counter {manifest.counter}"
    )
    made = manifest.create_time.ToDatetime().isoformat(sep=" ", timespec="seconds")
    until = manifest.expire_time.ToDatetime().isoformat(sep=" ", timespec="seconds")
    session.output.line(f"  made {made} UTC, to be imported until {until} UTC")
    encrypted = (
        f"encrypted to key {manifest.encryption.recipient_key_id}"
        if manifest.HasField("encryption")
        else "not encrypted"
    )
    session.output.line(
        f"  {events} events of {len(manifest.ranges)} streams in {len(manifest.segments)} segments, {encrypted}"
    )


@group.command("verify", short_help="Verify bundles offline, against the exporter's key.")
@FILES
@click.option(
    "--exporter-key",
    required=True,
    metavar="KEY",
    help="Public signing key of the exporter, 64 hexadecimal digits.",
)
@click.option(
    "--key-file",
    default=None,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Private key of the audience, where the bundle is encrypted.",
)
@pass_session
def verify(
    session: Session, files: Sequence[Path], exporter_key: str, key_file: Path | None
) -> None:
    """Read bundles to their ends: signature, hashes, declared ranges, and chains within the file.

    How they stand to a controller's log, only that controller can tell: `bundle import --check`.

    \b
    souverixctl bundle verify stick/region-b-control-to-edge-zone-b1-control-812.svxb --exporter-key 9f…
    """
    keys = _OneKey(read_public_key(exporter_key))
    private = None
    if key_file is not None:
        try:
            with open_file(key_file) as file:
                private = read_encryption_key(file.read(MAX_KEY_BYTES))
        except KeyUnreadable as error:
            raise BadInput(f"{key_file}: {error}") from error
    for path in files:
        events = 0
        with open_file(path) as file:
            try:
                for content in BundleReader(file, keys).contents(private):
                    events += sum(len(run.events) for run in content.runs)
            except BundleRefused as error:
                raise not_intact(path, error) from error
        session.output.line(f"{path}: good, {events} events")


@group.command("new-key", short_help="Make the key that bundles for a controller are encrypted to.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@pass_session
def new_key(session: Session, file: Path) -> None:
    """Write a new private key to FILE, for `trust.bundle_key` of the controller, and print its public key.

    Whoever exports for that controller gives the public key as --encrypt-to.

    \b
    souverixctl bundle new-key /etc/souverix/bundle.pem
    """
    key = new_encryption_key()
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise BadInput(
            f"{file} is there already", "a key is never overwritten: choose another name"
        ) from error
    except OSError as error:
        raise BadInput(f"{file} cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(encryption_key_pem(key))
    public = key.public_key().public_bytes_raw()
    session.output.line(public.hex())
    session.output.note(f"key {recipient_key_id(public)}; its private part is in {file}")
