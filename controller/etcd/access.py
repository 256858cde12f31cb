"""How to reach an etcd cluster and who we are to it.

Owns endpoints, TLS files and credentials. Never opens a connection.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from controller.etcd.errors import EtcdRefused


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. `certificate` and `key` are given together, or not at all."""

    authority: Path
    certificate: Path | None = None
    key: Path | None = None

    def read(self) -> grpc.ChannelCredentials:
        """Read the files anew, so that a renewed certificate serves the next connection.

        Raises EtcdRefused naming the file that cannot be read.
        """
        try:
            return grpc.ssl_channel_credentials(
                root_certificates=self.authority.read_bytes(),
                private_key=self.key.read_bytes() if self.key else None,
                certificate_chain=self.certificate.read_bytes() if self.certificate else None,
            )
        except OSError as error:
            raise EtcdRefused(
                f"cannot read {error.filename}: {error.strerror}; check the etcd TLS settings"
            ) from error


@dataclass(frozen=True, slots=True)
class Password:
    """Name and password of an etcd user."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Access:
    """Where the members are and how to be let in.

    `endpoints` are `host:port` or URLs with http or https. Without TLS only loopback is dialled:
    commits, and passwords, would cross the network in clear.
    """

    endpoints: Sequence[str]
    tls: TlsFiles | None = None
    password: Password | None = None
    accept_lossy_versions: bool = False

    def addresses(self) -> tuple[str, ...]:
        """The endpoints as gRPC targets. Raises EtcdRefused naming what is wrong with one."""
        if not self.endpoints:
            raise EtcdRefused("no etcd endpoint given; name at least one as host:port")
        return tuple(self._address(endpoint) for endpoint in self.endpoints)

    def _address(self, endpoint: str) -> str:
        scheme, separator, rest = endpoint.rpartition("://")
        if separator and scheme != ("https" if self.tls else "http"):
            raise EtcdRefused(
                f"etcd endpoint {endpoint}: TLS is {'on' if self.tls else 'off'}; "
                "use https with TLS files, http without"
            )
        address = rest.rstrip("/")
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise EtcdRefused(f"etcd endpoint {endpoint}: expected host:port")
        if self.tls is None and not _is_loopback(host):
            raise EtcdRefused(
                f"etcd endpoint {endpoint} is not on this machine; "
                "give TLS files, for nothing crosses a network in clear"
            )
        return address


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
