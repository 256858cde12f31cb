"""Who a certificate names: SPIFFE ids (spiffe.io, "The SPIFFE Identity and Verifiable Identity Document"), and the DNS
names that follow from a domain's place in the tree. Owns their form; never says who may bear one.

An identity is `spiffe://<trust domain>/<domain>/<kind>/<name>`. The domain is the one whose authority issued the
certificate, and the widest scope the bearer can ever have.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass

from trust.errors import NameInvalid

SCHEME = "spiffe://"

#: Longest identity as text: SPIFFE's own bound is 2048 bytes; these parts need no more than this.
MAX_IDENTITY = 512

#: The name of the self-signed certificate that all trust rests on. It is the authority above the root domain's own.
ROOT_NAME = "root"

#: First label of the name of those who serve nodes.
NODES_LABEL = "_nodes"

#: Longest DNS name (RFC 1035).
MAX_DNS_NAME = 253

#: Longest trust domain: leaves room for the domains before it in a DNS name.
MAX_TRUST_DOMAIN = 63

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_DNS_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_DOMAIN = re.compile(_LABEL)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Kind(enum.StrEnum):
    """What bears an identity."""

    CONTROLLER = "controller"
    NODE = "node"
    RELAY = "relay"
    USER = "user"
    AUTHORITY = "ca"


@dataclass(frozen=True, slots=True)
class Identity:
    """One identity. Raises `NameInvalid` when a part is no name."""

    trust_domain: str
    domain: str
    kind: Kind
    name: str

    def __post_init__(self) -> None:
        check_trust_domain(self.trust_domain)
        if not _DOMAIN.fullmatch(self.domain):
            raise NameInvalid(
                f"{self.domain!r} is no domain: lower-case letters, digits and '-', at most 63"
            )
        check_bearer_name(self.name)

    def __str__(self) -> str:
        return f"{SCHEME}{self.trust_domain}/{self.domain}/{self.kind}/{self.name}"

    @property
    def principal(self) -> str:
        """How the bearer is called in the audit log and in events, as in `user:alice`."""
        return f"{self.kind}:{self.name}"

    @property
    def is_root(self) -> bool:
        """Tells whether this names the self-signed certificate that all trust rests on."""
        return self.kind is Kind.AUTHORITY and self.name == ROOT_NAME

    @classmethod
    def parse(cls, text: str) -> Identity:
        """Reads an identity. Raises `NameInvalid`."""
        if len(text) > MAX_IDENTITY or not text.startswith(SCHEME):
            raise NameInvalid(f"{text[:MAX_IDENTITY]!r} is no SPIFFE id of at most {MAX_IDENTITY}")
        parts = text.removeprefix(SCHEME).split("/")
        if len(parts) != 4:
            raise NameInvalid(f"{text!r} is not spiffe://TRUST-DOMAIN/DOMAIN/KIND/NAME")
        trust_domain, domain, kind, name = parts
        if kind not in set(Kind):
            raise NameInvalid(f"{kind!r} is none of {', '.join(Kind)}")
        return cls(trust_domain, domain, Kind(kind), name)


def authority_of(trust_domain: str, domain: str) -> Identity:
    """The identity of a domain's certificate authority. Raises `NameInvalid`."""
    return Identity(trust_domain, domain, Kind.AUTHORITY, domain)


def check_bearer_name(text: str) -> None:
    """Raises `NameInvalid` unless a bearer may be called so."""
    if not _NAME.fullmatch(text):
        raise NameInvalid(
            f"{text[:MAX_IDENTITY]!r} is no name: letters, digits, '.', '_' and '-', at most 128, beginning with a "
            "letter or a digit"
        )


def check_trust_domain(text: str) -> None:
    """Raises `NameInvalid` unless the text is a trust domain."""
    if len(text) > MAX_TRUST_DOMAIN or not _DNS_NAME.fullmatch(text):
        raise NameInvalid(
            f"{text[:MAX_IDENTITY]!r} is no trust domain: a DNS name in lower case, at most {MAX_TRUST_DOMAIN}"
        )


def nodes_name_of(controller_name: str) -> str:
    """The DNS name of whoever serves a domain's nodes: its controller, and the relays that stand between.

    No domain can have it: its first label is no domain's id. Raises `NameInvalid`.
    """
    name = f"{NODES_LABEL}.{controller_name}"
    if len(name) > MAX_DNS_NAME:
        raise NameInvalid(f"{name} is longer than a DNS name may be ({MAX_DNS_NAME})")
    return name


def checked_dns_name(text: str) -> str:
    """The DNS name of one server, if it is one: in lower case, and no wildcard. Raises `NameInvalid`."""
    if len(text) > MAX_DNS_NAME or not _DNS_NAME.fullmatch(text):
        raise NameInvalid(f"{text[:MAX_DNS_NAME]!r} is no DNS name of one server, in lower case")
    return text


def dns_name_of(path: Sequence[str], trust_domain: str) -> str:
    """The DNS name of the controller of a domain, from the domain's path, root first.

    An authority may be used only for this name of its domain and the names below it (a name constraint, RFC 5280
    §4.2.1.10), so a server that proves it is the controller of that domain or of one above. Raises `NameInvalid`.
    """
    name = ".".join([*reversed(path), trust_domain])
    if len(name) > MAX_DNS_NAME:
        raise NameInvalid(f"{name} is longer than a DNS name may be ({MAX_DNS_NAME})")
    return name
