"""Certificates: the root, an authority for each domain, and certificates of controllers, nodes, relays and users.

Owns how authorities are kept in directories and what people are told of certificates. Talks to no controller, and
overwrites nothing unless told to: a key that is gone cannot be had back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
from cryptography import x509

from souverixctl.errors import BadInput, CtlError, ExitCode, NotIntact
from souverixctl.output import Output, styled
from souverixctl.session import Session, Verbs, pass_session
from souverixctl.times import parse_duration, seconds_of
from trust.authority import (
    AUTHORITY_LIFE,
    LEAF_LIVES,
    MAX_REQUEST_BYTES,
    Authority,
    ServerNames,
    describe,
    new_request,
    new_root,
    requested_key,
)
from trust.certificates import (
    MAX_PEM_BYTES,
    MAX_ROOTS,
    check_time,
    fingerprint,
    identity_of,
    parse_der,
    parse_pem,
    to_pem,
    verify_authorities,
    verify_chain,
)
from trust.errors import FilesUnusable, KeyUnreadable, NameInvalid, TrustError
from trust.files import (
    AUTHORITY_FILE,
    AUTHORITY_KEY_FILE,
    IDENTITY_FILE,
    ROOTS_FILE,
    authority_key_is_encrypted,
    read_authority,
    read_roots,
    write_authority,
    write_file,
    write_identity,
    write_roots,
)
from trust.identity import Kind
from trust.keys import MIN_PASSPHRASE, new_tls_key
from trust.keys import to_pem as key_to_pem

#: The request that `pki request` leaves beside its key.
REQUEST_FILE = "request.csr"

#: The certificate, with those above it, where the key stays with its owner.
CHAIN_FILE = "chain.pem"

_LEAVES = [kind.value for kind in LEAF_LIVES]
_Directory = click.Path(path_type=Path, file_okay=False)
_File = click.Path(path_type=Path)

group = Verbs(
    "pki",
    help="Make and look at certificates. Works on files; no controller is asked.\n\n"
    "One root, kept offline, issues for the root domain; each domain's authority issues for those below it and"
    " for its own controllers, nodes, relays and users. A certificate reaches no further than its domain's subtree.\n\n"
    "\b\n"
    "On an offline machine, once:\n"
    "  souverixctl pki init --trust-domain fleet.example --passphrase-file passphrase.txt --out root\n"
    "  souverixctl pki issue-ca global --authority root --out ca-global\n"
    "On the machine of a region (its key never leaves it):\n"
    "  souverixctl pki request --authority-key --new-passphrase-file passphrase.txt --out ca-region-a\n"
    "and where the authority above is kept:\n"
    "  souverixctl pki issue-ca region-a --authority ca-global --csr request.csr --out for-region-a\n"
    "A certificate for a controller, dialled by this address, and one for a person:\n"
    "  souverixctl pki issue controller region-a-control --authority ca-region-a --ip 192.0.2.7 --out tls\n"
    "  souverixctl pki issue user alice --authority ca-region-a --out alice\n"
    "  souverixctl pki inspect tls\n",
)

_authority_option = click.option(
    "--authority",
    "above",
    type=_Directory,
    required=True,
    metavar="DIR",
    help=f"Directory of the issuing authority: {AUTHORITY_KEY_FILE}, {AUTHORITY_FILE}, {ROOTS_FILE}.",
)
_out_option = click.option(
    "--out",
    type=_Directory,
    required=True,
    metavar="DIR",
    help="Directory for what is made; made if missing. Nothing in it is overwritten.",
)
_passphrase_option = click.option(
    "--passphrase-file",
    type=_File,
    metavar="FILE",
    help="File whose first line is the passphrase of the authority's key. Default: asked for, where one is needed.",
)
_csr_option = click.option(
    "--csr",
    type=_File,
    metavar="FILE",
    help="Request (PKCS #10, PEM or DER) of who has the key. Only the key is taken from it. Default: a new key.",
)


@group.command("init", short_help="Make the root that all trust rests on.")
@click.option(
    "--trust-domain",
    required=True,
    metavar="NAME",
    help="DNS name of the federation, such as fleet.example; part of every identity.",
)
@click.option(
    "--domain",
    default="global",
    show_default=True,
    metavar="DOMAIN",
    help="The root of the tree of domains.",
)
@_out_option
@click.option(
    "--passphrase-file",
    type=_File,
    metavar="FILE",
    help=f"File whose first line is the passphrase, at least {MIN_PASSPHRASE} characters. Default: asked for.",
)
@pass_session
def init(
    session: Session, trust_domain: str, domain: str, out: Path, passphrase_file: Path | None
) -> None:
    """Make the root: an encrypted private key and a certificate, for twenty years.

    Do it on a machine without a network, write down the fingerprint that is printed, and carry the directory away on
    two media. It is needed again only to issue the authority of the root domain. What every machine of the federation
    needs of it is roots.pem.

    \b
    souverixctl pki init --trust-domain fleet.example --passphrase-file passphrase.txt --out root
    """
    with _told():
        _require_new(out, AUTHORITY_KEY_FILE, AUTHORITY_FILE, ROOTS_FILE)
        passphrase = _new_passphrase(passphrase_file)
        root = new_root(new_tls_key(), trust_domain, domain, _now())
        key_pem = key_to_pem(root.key, passphrase)
        _make(out)
        write_authority(out, root.certificates, key_pem)
    _tell_made(session.output, out, root.certificate)


@group.command("request", short_help="Make a key and a request for its certificate.")
@click.option(
    "--authority-key", "is_authority", is_flag=True, help="The key is to be an authority's."
)
@click.option(
    "--new-passphrase-file",
    type=_File,
    metavar="FILE",
    help="Encrypt the key with the passphrase on this file's first line. Default: in clear, readable by its owner.",
)
@_out_option
@pass_session
def request(
    session: Session, is_authority: bool, new_passphrase_file: Path | None, out: Path
) -> None:
    """Make a private key where it will be used, and a request to be carried to the authority.

    The key stays. Of the request only its public key is used; whom the certificate names is said when it is issued.
    Put what comes back (ca.pem or chain.pem, and roots.pem) beside the key.

    \b
    souverixctl pki request --authority-key --new-passphrase-file passphrase.txt --out ca-region-a
    """
    name = AUTHORITY_KEY_FILE if is_authority else "key.pem"
    with _told():
        _require_new(out, name, REQUEST_FILE)
        passphrase = _first_line(new_passphrase_file) if new_passphrase_file else None
        key = new_tls_key()
        _make(out)
        write_file(out / name, key_to_pem(key, passphrase), private=True, replace=False)
        write_file(out / REQUEST_FILE, new_request(key), private=False, replace=False)
    session.output.line(
        f"{out / REQUEST_FILE} is to be carried to the authority; {out / name} stays"
    )


@group.command("issue-ca", short_help="Issue the authority of a domain.")
@click.argument("domain")
@_authority_option
@_passphrase_option
@_csr_option
@click.option(
    "--also-names",
    multiple=True,
    metavar="DNS",
    help="DNS name below which it may name servers, beside its own. Repeatable; those above must permit it, too.",
)
@click.option(
    "--no-delegate",
    is_flag=True,
    help="It issues leaves only: no domain below it has an authority.",
)
@click.option(
    "--life",
    metavar="DURATION",
    help=f"How long it is good; never longer than its issuer. Default: {AUTHORITY_LIFE.days}d.",
)
@click.option(
    "--new-passphrase-file",
    type=_File,
    metavar="FILE",
    help="Encrypt the new key with the passphrase on this file's first line. Default: in clear, readable by its owner.",
)
@_out_option
@pass_session
def issue_ca(
    session: Session,
    domain: str,
    above: Path,
    passphrase_file: Path | None,
    csr: Path | None,
    also_names: Sequence[str],
    no_delegate: bool,
    life: str | None,
    new_passphrase_file: Path | None,
    out: Path,
) -> None:
    """Issue the authority of DOMAIN from that of its parent; a region's, a zone's, any depth.

    The directory is then what `--authority` takes. With --csr it lacks the key, which is with its owner.

    \b
    souverixctl pki issue-ca global --authority root --out ca-global
    souverixctl pki issue-ca region-a --authority ca-global --out ca-region-a
    souverixctl pki issue-ca edge-zone-a1 --authority ca-region-a --out ca-edge-zone-a1 --no-delegate
    """
    with _told():
        _require_new(out, AUTHORITY_KEY_FILE, AUTHORITY_FILE, ROOTS_FILE)
        issuer = _opened(above, passphrase_file)
        passphrase = _first_line(new_passphrase_file) if new_passphrase_file else None
        key = None if csr else new_tls_key()
        certificate = issuer.issue_authority(
            key.public_key() if key else requested_key(_read_request(csr)),
            domain,
            _now(),
            life=_span(life) or AUTHORITY_LIFE,
            also_names=also_names,
            may_delegate=not no_delegate,
        )
        _make(out)
        key_pem = key_to_pem(key, passphrase) if key else None
        write_authority(out, (certificate, *issuer.certificates), key_pem)
    _tell_made(session.output, out, certificate)


@group.command("issue", short_help="Issue a certificate of a controller, node, relay or user.")
@click.argument("kind", type=click.Choice(_LEAVES))
@click.argument("name")
@_authority_option
@_passphrase_option
@_csr_option
@click.option(
    "--dns",
    multiple=True,
    metavar="NAME",
    help="DNS name a controller or relay is dialled by. Repeatable. A controller always has its domain's.",
)
@click.option(
    "--ip",
    multiple=True,
    metavar="ADDRESS",
    help="IP address a controller or relay is dialled by. Repeatable.",
)
@click.option(
    "--life",
    metavar="DURATION",
    help="How long it is good; never longer than its issuer. Default: 7d for controllers and users, 24h for nodes and"
    " relays.",
)
@click.option("--replace", is_flag=True, help="Renew: put it in the place of what is in --out.")
@_out_option
@pass_session
def issue(
    session: Session,
    kind: str,
    name: str,
    above: Path,
    passphrase_file: Path | None,
    csr: Path | None,
    dns: Sequence[str],
    ip: Sequence[str],
    life: str | None,
    replace: bool,
    out: Path,
) -> None:
    """Issue a certificate for KIND NAME, a member of the issuing authority's domain.

    Made are identity.pem (private key and chain) and roots.pem: the directory is what controllers, agents and this
    program take. With --csr it is chain.pem, for the key is with its owner. Programs notice a renewed certificate by
    themselves: issue it anew with --replace.

    \b
    souverixctl pki issue controller region-a-control --authority ca-region-a --ip 192.0.2.7 --out tls
    souverixctl pki issue node gw-7 --authority ca-edge-zone-a1 --csr gw-7.csr --out for-gw-7
    souverixctl pki issue user alice --authority ca-global --life 12h --out alice
    """
    written = CHAIN_FILE if csr else IDENTITY_FILE
    with _told():
        if not replace:
            _require_new(out, written, ROOTS_FILE)
        issuer = _opened(above, passphrase_file)
        key = None if csr else new_tls_key()
        certificate = issuer.issue(
            key.public_key() if key else requested_key(_read_request(csr)),
            Kind(kind),
            name,
            _now(),
            life=_span(life),
            servers=ServerNames(dns, ip) if dns or ip else None,
        )
        chain = (certificate, *issuer.intermediates)
        _make(out)
        if key is None:
            write_file(out / CHAIN_FILE, to_pem(chain), private=False)
        else:
            write_identity(out, key_to_pem(key), chain)
        write_roots(out, issuer.certificates[-1:])
    _tell_made(session.output, out, certificate)


@group.command("inspect", short_help="Show certificates, and whether they are good now.")
@click.argument("path", type=_File)
@click.option(
    "--roots",
    type=_File,
    metavar="FILE",
    help="Roots to verify against. Default: roots.pem beside the certificates, if it is there.",
)
@pass_session
def inspect(session: Session, path: Path, roots: Path | None) -> None:
    """Show what is in a file of certificates, or in a directory that other verbs made.

    Where roots are known the chain is verified at the present time; one that is not good ends the run with code 8.
    Compare the root's fingerprint with the one that was written down when it was made.

    \b
    souverixctl pki inspect tls
    souverixctl pki inspect chain.pem --roots roots.pem
    """
    with _told():
        file = _file_in(path) if path.is_dir() else path
        certificates = _read_certificates(file)
        beside = file.with_name(ROOTS_FILE)
        trusted = read_roots(roots or beside) if roots or beside.is_file() else ()
        documents = [describe(certificate) for certificate in certificates]
    _show(session.output, documents)
    if not trusted:
        session.output.warn("no roots are known: nothing was verified (--roots FILE)")
        return
    for root in trusted:
        session.output.note(f"root {identity_of(root)}  {_grouped(fingerprint(root))}")
    try:
        if identity_of(certificates[0]).kind is Kind.AUTHORITY:
            verify_authorities(certificates, trusted, _now())
        else:
            verify_chain(certificates, trusted, _now())
        for certificate in certificates:
            check_time(certificate, _now())
    except TrustError as error:
        raise NotIntact(str(error), "programs refuse it as well; issue it anew") from error
    session.output.note("good now: the chain leads to a root that is trusted")


# Files and passphrases.


@contextmanager
def _told() -> Iterator[None]:
    """Turns what `trust` raises into words and an exit code of this program."""
    try:
        yield
    except NameInvalid as error:
        raise BadInput(str(error)) from error
    except KeyUnreadable as error:
        raise BadInput(str(error), "check the passphrase and the file") from error
    except FilesUnusable as error:
        raise BadInput(str(error), "--help shows what lies where") from error
    except TrustError as error:
        raise CtlError(str(error)) from error
    except OSError as error:
        raise BadInput(f"{error.filename}: {error.strerror}") from error


class _InTheWay(CtlError):
    """A file is there that would have to be overwritten."""

    exit_code = ExitCode.CONFLICT


def _require_new(directory: Path, *names: str) -> None:
    for name in names:
        if (directory / name).exists():
            raise _InTheWay(
                f"{directory / name} is there already, and is not overwritten",
                "name another directory with --out, or move the file away yourself",
            )


def _make(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)


def _now() -> datetime:
    return datetime.now(UTC)


def _opened(directory: Path, passphrase_file: Path | None) -> Authority:
    passphrase = None
    if authority_key_is_encrypted(directory):
        passphrase = (
            _first_line(passphrase_file)
            if passphrase_file
            else click.prompt(
                f"Passphrase of {directory / AUTHORITY_KEY_FILE}", hide_input=True, err=True
            ).encode()
        )
    return read_authority(directory, passphrase, _now())


def _new_passphrase(file: Path | None) -> bytes:
    if file is not None:
        return _first_line(file)
    asked: str = click.prompt(
        f"New passphrase, at least {MIN_PASSPHRASE} characters",
        hide_input=True,
        confirmation_prompt=True,
        err=True,
    )
    return asked.encode()


def _first_line(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.readline(1024).rstrip(b"\r\n")


def _read_request(path: Path | None) -> bytes:
    if path is None:
        raise AssertionError("called with a request only")
    with path.open("rb") as file:
        return file.read(MAX_REQUEST_BYTES + 1)


def _span(text: str | None) -> timedelta | None:
    return timedelta(seconds=seconds_of(parse_duration(text))) if text else None


def _file_in(directory: Path) -> Path:
    for name in (IDENTITY_FILE, CHAIN_FILE, AUTHORITY_FILE, ROOTS_FILE):
        if (directory / name).is_file():
            return directory / name
    raise FilesUnusable(f"{directory} holds no certificates of ours")


def _read_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    with path.open("rb") as file:
        data = file.read(MAX_PEM_BYTES + 1)
    return (parse_der(data),) if data.startswith(b"\x30") else parse_pem(data, MAX_ROOTS + 12)


# What is shown.


def _tell_made(output: Output, directory: Path, certificate: x509.Certificate) -> None:
    document = {"directory": str(directory), **_plain(describe(certificate))}
    if not output.is_table:
        output.document(document)
        return
    for label, value in document.items():
        output.line(f"{label.replace('_', ' ')}:", _text(label, value))


def _show(output: Output, documents: Sequence[dict[str, object]]) -> None:
    if not output.is_table:
        output.document({"certificates": [_plain(document) for document in documents]})
        return
    for number, document in enumerate(documents):
        if number:
            output.line()
        for label, value in _plain(document).items():
            output.line(styled(f"{label.replace('_', ' ')}:", "bold"), _text(label, value))


def _plain(document: dict[str, object]) -> dict[str, Any]:
    return {
        label: f"{value:%Y-%m-%dT%H:%M:%SZ}" if isinstance(value, datetime) else value
        for label, value in document.items()
    }


def _text(label: str, value: Any) -> str:
    if label == "fingerprint":
        return _grouped(str(value))
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _grouped(digits: str) -> str:
    """A fingerprint in groups that can be read aloud and compared."""
    return " ".join(digits[at : at + 4] for at in range(0, len(digits), 4))
