"""gRPC channels and listeners of credentials. Owns what TLS demands of the other side, and that a listener shows its
newest certificate; who may do what is for others to judge. The only module of this package that knows gRPC.

A client trusts the roots and demands a DNS name, by default that of the domain whose controller it wants: only the
authority of that domain, or of one above it, can have named a server so (name constraints). The address that is dialled
proves nothing and may change.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from cryptography import x509

from trust.certificates import parse_der
from trust.errors import FilesUnusable
from trust.files import Credentials, ReloadedCredentials

#: A probe of one's own listener: it is on this machine, or the machine is in trouble.
PROBE_TIMEOUT_S = 5.0

Options = Sequence[tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class ClientTls:
    """How a client proves itself and what it demands: a server of this DNS name; None: of the name it dials.

    Without a key and a chain it proves nothing, for servers that demand no certificate.
    """

    roots_pem: bytes
    server_name: str | None
    key_pem: bytes | None = field(default=None, repr=False)
    chain_pem: bytes | None = None

    @classmethod
    def of(cls, credentials: Credentials, server_name: str | None) -> ClientTls:
        """With a bearer's credentials."""
        return cls(credentials.roots_pem, server_name, credentials.key_pem, credentials.chain_pem)

    def options(self) -> list[tuple[str, Any]]:
        """What a channel needs beside credentials."""
        if self.server_name is None:
            return []
        return [("grpc.ssl_target_name_override", self.server_name)]

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """For a new channel."""
        return grpc.ssl_channel_credentials(
            root_certificates=self.roots_pem,
            private_key=self.key_pem,
            certificate_chain=self.chain_pem,
        )


def open_channel(address: str, options: Options, tls: ClientTls | None) -> grpc.aio.Channel:
    """A channel for asyncio; without TLS only where the caller has made sure that it stays on this machine."""
    if tls is None:
        return grpc.aio.insecure_channel(address, options=list(options))
    return grpc.aio.secure_channel(
        address, tls.channel_credentials(), options=[*options, *tls.options()]
    )


def open_blocking_channel(address: str, options: Options, tls: ClientTls | None) -> grpc.Channel:
    """As `open_channel`, for programs without an event loop."""
    if tls is None:
        return grpc.insecure_channel(address, options=list(options))
    return grpc.secure_channel(
        address, tls.channel_credentials(), options=[*options, *tls.options()]
    )


class ListenerTls:
    """The certificate that a listener shows, as its files have it. Raises `FilesUnusable` when they cannot be read."""

    def __init__(self, held: ReloadedCredentials, *, demand_certificates: bool = True) -> None:
        self._held = held
        self._demand = demand_certificates
        self._shown = held.current
        self._configuration = _configuration(self._shown)

    def credentials(self) -> grpc.ServerCredentials:
        """For `add_secure_port`. Handshakes from then on show what was read last, existing connections stay."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration, self._fetch, require_client_authentication=self._demand
        )

    def _fetch(self) -> grpc.ServerCertificateConfiguration:
        """Asked by gRPC at every handshake, in a thread of its own: must be quick, and must not fail, for then gRPC
        keeps the old certificate and says nothing.
        """
        current = self._held.current
        if current is not self._shown:
            self._configuration = _configuration(current)
            self._shown = current
        return self._configuration


def served_certificate(address: str) -> x509.Certificate:
    """The certificate that a listener shows now. Trusts nothing: it only looks. Raises `OSError`, `FilesUnusable`."""
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host.strip("[]"), int(port)), PROBE_TIMEOUT_S) as plain,
        context.wrap_socket(plain) as secured,
    ):
        found = secured.getpeercert(binary_form=True)
    if found is None:
        raise FilesUnusable(f"{address} shows no certificate")
    return parse_der(found)


def _configuration(credentials: Credentials) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(credentials.key_pem, credentials.chain_pem)],
        root_certificates=credentials.roots_pem,
    )
