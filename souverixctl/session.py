"""One run of the command line: its global options, its output, its connection and its trace.

Owns the options every verb takes, before it or after it. Dials only when a verb first calls.
"""

from __future__ import annotations

import getpass
import re
import stat
import sys
from collections.abc import Callable
from functools import cached_property, update_wrapper
from pathlib import Path
from typing import Any, TypeVar

import click

from souverixctl.connection import Connection, parse_addresses
from souverixctl.errors import BadInput
from souverixctl.output import Format, Output
from souverixctl.times import parse_duration, seconds_of
from telemetry.context import TraceContext, begin, parse
from telemetry.settings import TelemetrySettings, check
from telemetry.spans import NO_SPAN, Kind
from telemetry.started import OFF, TelemetryUnavailable, start
from trust.certificates import to_pem
from trust.channels import ClientTls
from trust.errors import TrustError
from trust.files import TrustFiles, read_bounded, read_roots

Result = TypeVar("Result")

_SETTINGS = "souverixctl.settings"
_SESSION = "souverixctl.session"
DEFAULT_TIMEOUT = "10s"
# What the program is called in traces.
SERVICE_NAME = "souverixctl"
# Given instead of a trace context, it begins a trace.
NEW_TRACE = "new"
# The verb of a group that is meant where none is named.
SHOW = "show"
# What controllers take for a principal; they refuse callers of any other name.
_PRINCIPAL = re.compile(r"[a-z]+:[A-Za-z0-9._@/-]{1,128}")

# More than any token that gRPC would carry.
MAX_TOKEN_FILE_BYTES = 64 * 1024
# What a JSON Web Token is made of.
_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


class Session:
    """What a verb works with."""

    def __init__(self, settings: dict[str, Any], verb: str = "souverixctl") -> None:
        self._settings = settings
        self._verb = verb
        self._telemetry = OFF
        self._span = NO_SPAN
        self.output = Output(
            Format(settings.get("output", Format.TABLE)), color=not settings.get("no_color", False)
        )

    @cached_property
    def connection(self) -> Connection:
        """Where calls go. Raises BadInput when the options do not say."""
        server = self._settings.get("server")
        if not server:
            raise BadInput(
                "no server is given",
                "say which controller to ask: --server 127.0.0.1:7400, or set SOUVERIX_SERVER",
            )
        timeout_s = seconds_of(parse_duration(self._settings.get("timeout", DEFAULT_TIMEOUT)))
        if timeout_s <= 0:
            raise BadInput("--timeout is zero", f"write a duration such as {DEFAULT_TIMEOUT}")
        tls = self.tls
        addresses = parse_addresses(server, secured=tls is not None)
        return Connection(
            addresses, self.principal, timeout_s, self.output.note, self.trace, tls, self.token
        )

    @property
    def token(self) -> Callable[[], str] | None:
        """Reads the token of the person who asks, if one is given. Raises BadInput."""
        file = self._settings.get("token_file")
        if not file:
            return None
        if self.tls is None or self.tls.chain_pem is not None:
            raise BadInput(
                "a token is shown over TLS only, and takes the place of a certificate",
                "give --ca FILE with the trusted roots, and neither --tls nor --cert",
            )
        path = Path(file)
        read_token(path)
        return lambda: read_token(path)

    @cached_property
    def tls(self) -> ClientTls | None:
        """How the run proves itself and what it demands of servers; None: it speaks in clear. Raises BadInput."""
        directory = self._settings.get("tls")
        given = {name: str(self._settings.get(name) or "") for name in ("cert", "key", "ca")}
        name = self._settings.get("server_name")
        if not directory and not any(given.values()):
            if name:
                raise BadInput(
                    "--server-name is proved by TLS, and no certificate is given", "add --tls DIR"
                )
            return None
        if directory and any(given.values()):
            raise BadInput(
                "--tls names all files; --cert, --key and --ca name each", "leave one out"
            )
        try:
            if directory:
                files = TrustFiles.in_directory(Path(directory))
            elif given["cert"] and given["key"] and given["ca"]:
                files = TrustFiles(*(Path(given[each]) for each in ("cert", "key", "ca")))
            elif given["ca"] and not given["cert"] and not given["key"]:
                return ClientTls(to_pem(read_roots(Path(given["ca"]))), name)
            else:
                raise BadInput("a certificate needs --cert, --key and --ca", "or --tls DIR")
            return ClientTls.of(files.read(), name)
        except TrustError as error:
            raise BadInput(str(error), "souverixctl pki inspect shows what is there") from error

    @cached_property
    def trace(self) -> TraceContext | None:
        """The trace all calls of the run belong to; None: none. Raises BadInput."""
        given = str(self._settings.get("traceparent") or "")
        held = parse(given)
        if given and given != NEW_TRACE and held is None:
            raise BadInput(
                f"{given!r} is no trace context",
                'write it as W3C has it, 00-TRACE-SPAN-01, or "new" to begin a trace',
            )
        endpoint = str(self._settings.get("otlp_endpoint") or "")
        trace = begin() if given == NEW_TRACE and not endpoint else held
        if endpoint:
            trace = self._begin_span(endpoint, held)
        if trace is not None and held is None:
            self.output.note(f"trace {trace.trace_id:032x}")
        return trace

    def _begin_span(self, endpoint: str, parent: TraceContext | None) -> TraceContext | None:
        """The run itself as a span, which ends with it. Raises BadInput."""
        settings = TelemetrySettings(endpoint=endpoint)
        complaint = check(settings)
        if complaint:
            raise BadInput(
                f"--otlp-endpoint: {complaint}", "write a URL such as http://127.0.0.1:4317"
            )
        try:
            self._telemetry = start(settings, SERVICE_NAME, {})
        except TelemetryUnavailable as error:
            raise BadInput(str(error), "leave --otlp-endpoint out") from error
        tracer = self._telemetry.tracer
        self._span = tracer.span(self._verb, kind=Kind.CLIENT, parent=parent).begin()
        return self._span.context

    @property
    def principal(self) -> str:
        """Who asks. Raises BadInput where a controller would not believe the name."""
        principal = str(self._settings.get("principal") or f"user:{_login_name()}")
        if not _PRINCIPAL.fullmatch(principal):
            raise BadInput(
                f"{principal!r} is no principal",
                "write --principal as kind:name, such as user:alice; the name takes letters, digits"
                " and ._@/-, at most 128 of them",
            )
        return principal

    def close(self) -> None:
        """Close the connection, if there is one, and tell of the run where that is asked for."""
        if "connection" in self.__dict__:
            self.connection.close()
        error = sys.exception()
        if error is not None:
            self._span.failed(type(error).__name__)
        self._span.end()
        self._telemetry.stop()


def read_token(path: Path) -> str:
    """The token in a file. Raises BadInput."""
    try:
        data = read_bounded(path, MAX_TOKEN_FILE_BYTES)
        mode = path.stat().st_mode
    except (TrustError, OSError) as error:
        raise BadInput(str(error), "name the file that your provider's login wrote") from error
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise BadInput(
            f"{path} is open to everybody, and whoever reads the token can use it",
            f"chmod 600 {path}",
        )
    token = data.decode(errors="replace").strip()
    if not _TOKEN.fullmatch(token):
        raise BadInput(
            f"{path} holds no token", "it must hold nothing else: HEADER.CLAIMS.SIGNATURE"
        )
    return token


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:  # a user id without an entry in the password database
        raise BadInput(
            "the login name is not known", "say who asks: --principal user:alice"
        ) from error


def session_of(context: click.Context) -> Session:
    """The run's session; made at the first call, when all options have been read."""
    session: Session | None = context.meta.get(_SESSION)
    if session is None:
        settings = context.meta.setdefault(_SETTINGS, {})
        session = context.meta[_SESSION] = Session(settings, context.command_path)
        context.find_root().call_on_close(session.close)
    return session


def pass_session(verb: Callable[..., Result]) -> Callable[..., Result]:
    """Hand the session to a verb as its first argument."""

    def with_session(*args: Any, **given: Any) -> Result:
        return verb(session_of(click.get_current_context()), *args, **given)

    return update_wrapper(with_session, verb)


def _remember(context: click.Context, option: click.Parameter, value: Any) -> None:
    if value not in (None, False):
        context.meta.setdefault(_SETTINGS, {})[option.name] = value


def global_options(*, hidden: bool) -> list[click.Option]:
    """The options of every verb. They are listed once, in the program's own help."""

    def option(*names: str, **attributes: Any) -> click.Option:
        if hidden:
            # The environment is read once, by the program: it must not override an option there.
            attributes.pop("envvar", None)
            attributes.pop("show_envvar", None)
        return click.Option(
            names, expose_value=False, callback=_remember, hidden=hidden, **attributes
        )

    return [
        option(
            "--server",
            metavar="HOST:PORT[,HOST:PORT]",
            envvar="SOUVERIX_SERVER",
            show_envvar=True,
            help="Controllers to ask; the next one is tried when one does not answer or is no master."
            " No default.",
        ),
        option(
            "-o",
            "--output",
            type=click.Choice([each.value for each in Format]),
            help="How to print results; JSON and YAML are the replies in protobuf's JSON mapping."
            " Default: table.",
        ),
        option(
            "--principal",
            metavar="KIND:NAME",
            envvar="SOUVERIX_PRINCIPAL",
            show_envvar=True,
            help="Who asks, such as user:alice. Default: user: and the login name.",
        ),
        option(
            "--tls",
            metavar="DIR",
            envvar="SOUVERIX_TLS",
            show_envvar=True,
            help="Directory of identity.pem and roots.pem, as `pki issue` makes it: ask by mutual TLS. Default: in"
            " clear, on this host only.",
        ),
        option(
            "--cert",
            metavar="FILE",
            envvar="SOUVERIX_CERT",
            show_envvar=True,
            help="Certificate chain, with --key and --ca in place of --tls.",
        ),
        option(
            "--key",
            metavar="FILE",
            envvar="SOUVERIX_KEY",
            show_envvar=True,
            help="Private key of the certificate.",
        ),
        option(
            "--ca",
            metavar="FILE",
            envvar="SOUVERIX_CA",
            show_envvar=True,
            help="Trusted roots. Alone: servers prove themselves, this program does not.",
        ),
        option(
            "--token-file",
            metavar="FILE",
            envvar="SOUVERIX_TOKEN_FILE",
            show_envvar=True,
            help="File with the token of an OpenID provider, in place of a certificate, with --ca; --server is then the"
            " controller's listen.people_address. It is read at each call, so that a renewed token is used.",
        ),
        option(
            "--server-name",
            metavar="NAME",
            envvar="SOUVERIX_SERVER_NAME",
            show_envvar=True,
            help="DNS name the server must prove, such as region-a.global.fleet.example. Default: the host that is"
            " dialled.",
        ),
        option(
            "--timeout",
            metavar="DURATION",
            help="Longest wait for one answer, such as 30s; watches, waits and verifications have no such"
            " limit."
            f" Default: {DEFAULT_TIMEOUT}.",
        ),
        option(
            "--traceparent",
            metavar="CONTEXT",
            envvar="TRACEPARENT",
            show_envvar=True,
            help='Trace the calls belong to, as a W3C traceparent; "new" begins one and prints its id.'
            " Default: none.",
        ),
        option(
            "--otlp-endpoint",
            metavar="URL",
            envvar="SOUVERIX_OTLP_ENDPOINT",
            show_envvar=True,
            help="Where the run is told of as the first span of its trace, such as http://127.0.0.1:4317."
            " Default: nowhere.",
        ),
        option("--no-color", is_flag=True, help="No colours; NO_COLOR does the same."),
    ]


class Verb(click.Command):
    """A command that takes the global options too, after its own name."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        attributes.setdefault(
            "epilog", "Options of every verb, durations and exit codes: souverixctl --help"
        )
        super().__init__(*args, **attributes)
        self.params = [*self.params, *global_options(hidden=True)]


class Verbs(click.Group):
    """A group of verbs."""

    command_class = Verb
    group_class = type


class ShowingVerbs(Verbs):
    """A group in which what does not name one of its verbs is what to show: its verb `show` is the default."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts the default verb before a target or an option."""
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = [SHOW, *args]
        return super().parse_args(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb of a name; the default verb for a name that is none."""
        return self.commands.get(cmd_name, self.commands[SHOW])
