"""Bundles: sync by file, for a controller without a link.

Owns how files are fetched, brought and shown, and that a file is whole before it has its name. Judges a file only as
far as the file itself allows; what it means to a controller is for the controller to say.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import click
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from rich.progress import Progress, TaskID

from airgap.encryption import recipient_key_id
from airgap.errors import BundleRefused
from airgap.reader import BundleReader
from airgap.writer import MIN_VOLUME_BYTES
from souverix.bundle.v1 import bundle_pb2
from souverix.bundle.v1 import bundle_service_pb2 as wire
from souverixctl.errors import BadInput, CtlError, NotIntact
from souverixctl.output import Cell
from souverixctl.results import age, present, word
from souverixctl.session import Session, Verbs, pass_session
from souverixctl.times import parse_duration
from trust.encryption_keys import encryption_key_pem, new_encryption_key, read_encryption_key
from trust.errors import KeyUnreadable
from trust.keys import MAX_KEY_BYTES

#: Bytes in one message to a controller, at most what it takes.
PIECE_BYTES = 1024 * 1024

#: Raw Ed25519 and X25519 public keys alike.
KEY_BYTES = 32

_SIZE_UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}

_Files = click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)

group = Verbs(
    "bundle",
    help="Sync by file: carry events to a controller that has no link, and back.\n\n"
    "A bundle holds what a session would send and its audience has not acknowledged. It may be imported twice, late, or"
    " in any order: what is there already is recognised, and what is missing is named. Acknowledgements travel back in"
    " the next bundle.\n\n"
    "\b\n"
    "At the region:\n"
    "  souverixctl bundle export --to edge-zone-b1-control --out stick/\n"
    "At the zone, then back:\n"
    "  souverixctl bundle import stick/*.svxb\n"
    "  souverixctl bundle export --to region-b-control --out stick/",
)


def _size(text: str) -> int:
    """Reads "100MB", "4MiB" or a number of bytes. Raises BadInput."""
    lower = text.strip().lower()
    digits = lower.rstrip("kmgib")
    unit = lower[len(digits) :]
    if not digits.isdigit() or (unit and unit not in _SIZE_UNITS):
        raise BadInput(f"{text!r} is no size", "write it as 100MB, 4GiB or a number of bytes")
    size = int(digits) * _SIZE_UNITS.get(unit, 1)
    if size < MIN_VOLUME_BYTES:
        raise BadInput(f"a volume of {text} is too small", f"at least {MIN_VOLUME_BYTES} bytes")
    return size


def read_public_key(text: str) -> bytes:
    """A raw public key from its digits. Raises BadInput."""
    with suppress(ValueError):
        raw = bytes.fromhex(text)
        if len(raw) == KEY_BYTES:
            return raw
    raise BadInput(f"{text[:80]!r} is no public key", "write its 32 bytes as 64 hexadecimal digits")


@group.command("export", short_help="Make a bundle for the parent or a child.")
@click.option("--to", "audience", required=True, metavar="CONTROLLER", help="Who takes it in.")
@click.option(
    "--out",
    "directory",
    default=".",
    metavar="DIRECTORY",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the files go; it is made where it is missing. [default: here]",
)
@click.option(
    "--volume-size",
    default="",
    metavar="SIZE",
    help="Cut into files of at most SIZE, such as 100MB.",
)
@click.option(
    "--valid-for",
    default="30d",
    show_default=True,
    metavar="DURATION",
    help="How long it may be taken in.",
)
@click.option(
    "--encrypt-to",
    default="",
    metavar="KEY",
    help="Public key of the audience, as `bundle new-key` prints it.",
)
@click.option("--full", is_flag=True, help="Everything, whatever the audience has acknowledged.")
@pass_session
def export(
    session: Session,
    audience: str,
    directory: Path,
    volume_size: str,
    valid_for: str,
    encrypt_to: str,
    full: bool,
) -> None:
    """Make a bundle for the parent or a child of the controller that is asked.

    A file has its name only when it is whole; one that is there already is not overwritten.

    \b
    souverixctl bundle export --to edge-zone-b1-control --out stick/
    souverixctl bundle export --to edge-zone-b1-control --volume-size 4GB --valid-for 60d
    """
    request = wire.ExportBundleRequest(
        audience=audience,
        volume_bytes=_size(volume_size) if volume_size else 0,
        recipient_public_key=read_public_key(encrypt_to) if encrypt_to else b"",
        full=full,
    )
    request.validity.CopyFrom(parse_duration(valid_for))
    directory.mkdir(parents=True, exist_ok=True)
    summary, paths = fetch_export(session, request, Incoming(directory))
    present(session, summary, lambda: _show_export(session, summary, audience, paths))


def fetch_export(
    session: Session, request: wire.ExportBundleRequest, files: Incoming
) -> tuple[wire.ExportSummary, list[Path]]:
    """Has an export made, and keeps its files, which have their names when they are whole. Raises Refused, BadInput."""
    summary, paths = None, []
    with session.output.progress() as progress, files as incoming:
        task = progress.add_task("selecting events", total=None)
        for reply in session.connection.stream(request, wire.ExportBundleResponse):
            kind = reply.WhichOneof("kind")
            if kind == "progress":
                done = reply.progress
                progress.update(task, completed=done.events, total=done.events_total or None)
            elif kind == "volume":
                paths.append(incoming.begin(reply.volume))
                task = progress.add_task(paths[-1].name, total=reply.volume.size)
            elif kind == "data":
                incoming.write(reply.data)
                progress.advance(task, len(reply.data))
            elif kind == "summary":
                incoming.finish()
                summary = reply.summary
    if summary is None:
        raise CtlError("the controller ended the export before it was whole", "export again")
    return summary, paths


def _show_export(
    session: Session, summary: wire.ExportSummary, audience: str, paths: Sequence[Path]
) -> None:
    for path in paths:
        session.output.line(str(path))
    until = summary.expire_time.ToDatetime().isoformat(sep=" ", timespec="minutes")
    session.output.note(f"{summary.events} events for {audience}, to be imported until {until} UTC")


class Incoming:
    """Files on their way to disk; none is left half written. `name` is for the only one, in place of the proposed."""

    def __init__(self, directory: Path, name: str = "") -> None:
        self._directory = directory
        self._name = name
        self._file: BinaryIO | None = None
        self._partial: Path | None = None
        self._path: Path | None = None

    def __enter__(self) -> Incoming:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        if self._partial is not None:
            self._partial.unlink(missing_ok=True)

    def begin(self, volume: wire.VolumeBegin) -> Path:
        """The next file. Its name is the controller's proposal, as far as it is a plain name."""
        self.finish()
        name = self._name or volume.suggested_name
        if not name or name != Path(name).name or name.startswith("."):
            raise CtlError(f"the controller proposes {name!r}, which is no plain file name", "")
        self._path = self._directory / name
        if self._path.exists():
            raise BadInput(
                f"{self._path} is there already", "move it away, or choose another --out"
            )
        self._partial = self._path.with_name(f".{name}.partial")
        self._file = self._partial.open("wb")
        return self._path

    def write(self, data: bytes) -> None:
        """The next bytes of the file."""
        if self._file is None:
            raise CtlError("the controller sent bytes of no file", "")
        self._file.write(data)

    def finish(self) -> None:
        """The file is whole: it is flushed to the medium, and named."""
        if self._file is None or self._partial is None or self._path is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._partial.replace(self._path)
        self._file = self._partial = None


@group.command("import", short_help="Bring bundles to the controller that is asked.")
@_Files
@click.option("--check", "check_only", is_flag=True, help="Have them judged, and take nothing in.")
@pass_session
def import_(session: Session, files: Sequence[Path], check_only: bool) -> None:
    """Bring bundles to the controller that is asked, volume by volume.

    Of a file that is refused nothing takes effect. Files may be given in any order: those that need another one first
    are brought again after it.

    \b
    souverixctl bundle import stick/region-b-control-to-edge-zone-b1-control-812.svxb
    """
    waiting = list(files)
    for path in waiting:
        open_file(path).close()
    while waiting:
        gaps = []
        for path in waiting:
            result = _import_one(session, path, check_only=check_only)
            if result.outcome == wire.IMPORT_OUTCOME_GAP and not check_only:
                gaps.append((path, result))
            else:
                _show_import(session, path, result)
        if len(gaps) == len(waiting):
            for path, result in gaps:
                _show_import(session, path, result)
            missing = gaps[0][1].missing[0]
            raise CtlError(
                f"{len(gaps)} of the files need events that are in none of them, such as"
                f" {missing.first_sequence} to {missing.last_sequence} of {missing.stream.domain}"
                f" by {missing.stream.controller}",
                "import the earlier bundle or volume, or export with --full; then import these again",
            )
        waiting = [path for path, _ in gaps]


def _import_one(session: Session, path: Path, *, check_only: bool) -> wire.ImportResult:
    with session.output.progress() as progress:
        task = progress.add_task(path.name, total=None)
        size = path.stat().st_size

        def pieces() -> Iterator[wire.ImportBundleRequest]:
            yield wire.ImportBundleRequest(begin=wire.ImportBegin(size=size, check_only=check_only))
            with open_file(path) as file:
                while data := file.read(PIECE_BYTES):
                    yield wire.ImportBundleRequest(data=data)

        replies = session.connection.exchange(
            pieces, wire.ImportBundleRequest.DESCRIPTOR, wire.ImportBundleResponse
        )
        for reply in replies:
            if reply.WhichOneof("kind") == "result":
                return reply.result
            _show_progress(progress, task, path, reply.progress)
    raise CtlError(f"the controller did not say what became of {path}", "import it again")


_PHASE_WORDS = {
    wire.IMPORT_PHASE_RECEIVING: "bringing",
    wire.IMPORT_PHASE_VERIFYING: "verifying",
    wire.IMPORT_PHASE_APPLYING: "applying",
}


def _show_progress(progress: Progress, task: TaskID, path: Path, done: wire.ImportProgress) -> None:
    said = f"{_PHASE_WORDS.get(done.phase, 'working')} {path.name}"
    progress.update(task, description=said, completed=done.done, total=done.total or None)


def _show_import(session: Session, path: Path, result: wire.ImportResult) -> None:
    if not session.output.is_table:
        session.output.step(result)
        return
    parts: list[Cell] = [
        f"{path.name}:",
        word(result, "outcome"),
        f"{result.events_applied} events applied, {result.events_repeated} were here",
    ]
    if result.runs_quarantined:
        parts.append(f"{result.runs_quarantined} runs quarantined: see `federation streams`")
    parts += [
        f"missing {gap.first_sequence} to {gap.last_sequence} of {gap.stream.domain}"
        f" by {gap.stream.controller}"
        for gap in result.missing
    ]
    session.output.line(*parts)


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
@_Files
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


def open_file(path: Path) -> BinaryIO:
    """A file to be read. Raises BadInput."""
    try:
        return path.open("rb")
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error


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
@_Files
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


@group.command("peers", short_help="What the controller remembers of bundles.")
@pass_session
def peers(session: Session) -> None:
    """Show with whom bundles were exchanged, when, and what is not acknowledged yet.

    \b
    souverixctl bundle peers
    """
    reply = session.connection.call(wire.ListBundlePeersRequest(), wire.ListBundlePeersResponse)
    now = session.output.now
    rows = [
        [
            peer.controller,
            age(peer, "export_time", now),
            age(peer, "import_time", now),
            age(peer, "imported_create_time", now),
            str(peer.events_unacknowledged),
        ]
        for peer in reply.peers
    ]
    columns = ("CONTROLLER", "EXPORTED", "IMPORTED", "MADE THERE", "NOT ACKNOWLEDGED")
    present(session, reply, lambda: session.output.table(columns, rows, "no bundle was exchanged"))
