"""Who has which role where. Owns what bindings, configuration and certificates together grant; knows no method."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from controller.access.roles import BINDABLE, Role
from controller.twin.facts import Facts, exists, state_of
from federation.authority import AuthorityTable
from federation.identifiers import Key

ASPECT = "role_binding"
BINDING_ASPECTS = ("existence", ASPECT)


#: Whom a binding may name: people, by certificate or by token, and groups of them.
MEMBER_PATTERN = re.compile(r"(user|oidc|group):[A-Za-z0-9._@/-]{1,128}")


class Grant(NamedTuple):
    """A role over a domain and all below it."""

    role: Role
    domain: str
    #: Resource name of the binding that gives it; empty: the configuration.
    binding: str


class Bearing(NamedTuple):
    """What is certain of a caller: its name, and how far the word of those who vouch for it counts."""

    principal: str
    #: Domains whose subtrees bound every grant: of the authority that issued the certificate, of the controller that
    #: passed the call on. Empty: nothing bounds them.
    bounds: tuple[str, ...] = ()
    #: Members it is counted as, beside its own name.
    groups: tuple[str, ...] = ()


def is_member(text: str) -> bool:
    """Tells whether a binding may name somebody so."""
    return MEMBER_PATTERN.fullmatch(text) is not None


def read_bindings(facts: Facts) -> Iterator[tuple[str, Grant]]:
    """Every member of every binding that is in force, with what it is granted."""
    state = state_of(facts)
    for domain, subject in list(state.subjects_everywhere("bindings")):
        winner = facts.winner(Key(domain, subject, ASPECT))
        if winner is None or not exists(facts, domain, subject):
            continue
        spec = winner.body()
        if spec.role not in BINDABLE:
            continue
        for member in spec.members:
            yield member, Grant(Role(spec.role), domain, f"domains/{domain}/{subject}")


class Grants:
    """What everybody is granted, as the facts say it at one time."""

    def __init__(
        self, members: Iterable[tuple[str, Grant]], authority: AuthorityTable, root: str
    ) -> None:
        self._authority = authority
        self._root = root
        self._of: dict[str, list[Grant]] = {}
        for member, grant in members:
            self._of.setdefault(member, []).append(grant)

    def of(self, bearing: Bearing) -> list[Grant]:
        """The grants of a caller, each cut to what bounds it; those that nothing is left of are absent."""
        found = []
        held = (
            g for member in (bearing.principal, *bearing.groups) for g in self._of.get(member, ())
        )
        for grant in held:
            domain: str | None = self._root if grant.role is Role.FLEET_ADMIN else grant.domain
            for bound in bearing.bounds:
                domain = self._lower(domain, bound)
                if domain is None:
                    break
            else:
                found.append(Grant(grant.role, domain or self._root, grant.binding))
        return found

    def reach(self, bearing: Bearing, role: Role) -> list[str]:
        """The highest domains over which a caller has at least a role, in order."""
        held = {grant.domain for grant in self.of(bearing) if grant.role >= role}
        return sorted(
            domain
            for domain in held
            if not any(
                other != domain and self._authority.is_within(domain, other) for other in held
            )
        )

    def covers(self, bearing: Bearing, role: Role, domain: str) -> bool:
        """Tells whether a caller has at least a role in a domain."""
        return any(
            grant.role >= role and self._authority.is_within(domain, grant.domain)
            for grant in self.of(bearing)
        )

    def _lower(self, one: str | None, other: str) -> str | None:
        """The common part of two subtrees, by its top; None: they have none."""
        if one is None or self._authority.is_within(one, other):
            return one
        return other if self._authority.is_within(other, one) else None
