"""The gate that every call passes: denies by default, narrows lists to what the caller may see. Owns the decision and
its words; the rules are `controller.access.methods`'s, the grants `controller.access.bindings`'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from controller.access.bindings import ASPECT, Bearing, Grant, Grants, read_bindings
from controller.access.errors import AccessDenied
from controller.access.methods import MACHINE_METHODS, METHODS, OPEN_SERVICES, Rule
from controller.access.places import Place, domains_of, root_of
from controller.access.roles import Role
from controller.writes import Caller
from federation.state import Applied, State

#: Domains named in the words of a denial.
DOMAINS_NAMED = 5


#: Aspects whose facts say who may do what, and where.
GRANTING_ASPECTS = frozenset({ASPECT, "authority", "genesis"})

#: Of a domain's id; what a caller sent in its place may be longer.
MAX_ID = 63


class Denial(NamedTuple):
    """Why a call is not allowed."""

    text: str
    #: Where the role is missing; empty: everywhere.
    domain: str


class Gate:
    """The gate of one controller. `admins` have the role fleet-admin by configuration."""

    def __init__(
        self, state: State, own_domain: str, admins: Iterable[str] = (), *, enforced: bool = False
    ) -> None:
        self._state = state
        self._own_domain = own_domain
        self._admins = tuple(admins)
        self.enforced = enforced
        #: Grows when rights may have changed: calls that go on are judged anew.
        self.version = 0
        self._grants: Grants | None = None

    def note(self, applied: Applied) -> None:
        """Forgets what was worked out, when a commit changed bindings or the tree of domains."""
        for _, subject, aspect in applied.keys:
            if aspect in GRANTING_ASPECTS or subject.startswith("bindings/"):
                self._grants = None
                self.version += 1
                return

    def admit(self, method: str, request: Any, caller: Caller) -> None:
        """Lets a call pass, a list narrowed to what the caller may see. Raises `AccessDenied`.

        Machines without a certificate pass to their own streams: these have proofs of their own.
        """
        if not self.enforced or method.startswith(OPEN_SERVICES):
            return
        kinds = MACHINE_METHODS.get(method)
        if kinds is not None:
            kind = caller.principal.partition(":")[0]
            if caller.issued_by and kind not in {each.value for each in kinds}:
                raise _denied(
                    method,
                    caller,
                    f"{caller.principal} is no {' or '.join(sorted(each.value for each in kinds))}, "
                    f"which {method.lstrip('/')} is for",
                )
            return
        rule = METHODS.get(method)
        if rule is None:
            raise _denied(
                method,
                caller,
                f"{method.lstrip('/')} is in no table of methods: nobody may call it",
            )
        bearing = self.bearing_of(caller)
        domains = domains_of(rule.place, request, self._state, self._own_domain)
        if not domains and rule.place in (Place.LISTED, Place.LISTED_HERE):
            self._narrow(method, request, caller, bearing, rule)
            return
        denial = self.denial(method, rule, bearing, domains)
        if denial is not None:
            raise _denied(method, caller, denial.text, rule.role, denial.domain)

    def check_write(self, method: str, caller: Caller, domain: str) -> None:
        """Holds a write to the domain that it turned out to be of. Raises `AccessDenied`.

        A move is made in the domain above both of its ends, and was held to these.
        """
        rule = METHODS.get(method)
        if not self.enforced or rule is None or rule.place is Place.NAME_AND_DOMAIN:
            return
        denial = self.denial(method, rule, self.bearing_of(caller), {domain})
        if denial is not None:
            raise _denied(method, caller, denial.text, rule.role, denial.domain)

    def denial(
        self, method: str, rule: Rule, bearing: Bearing, domains: Iterable[str]
    ) -> Denial | None:
        """Why a caller may not call a method for these domains (none: anywhere); None when it may."""
        grants = self.grants()
        if rule.role is Role.ANYBODY:
            return None
        missing = [d for d in sorted(domains) if not grants.covers(bearing, rule.role, d)]
        anywhere = not domains and not grants.reach(bearing, rule.role)
        if not missing and not anywhere:
            return None
        domain = missing[0][:MAX_ID] if missing else ""
        where = f"over domain {domain}" if domain else "somewhere"
        text = (
            f"{method.lstrip('/')} needs the role {rule.role.label} {where}, and {bearing.principal} has "
            f"{self._held(bearing)}; somebody who is domain-admin there can give it: "
            f"souverixctl access grant {domain or 'DOMAIN'} {rule.role.label} {bearing.principal}"
        )
        return Denial(text, domain)

    def bearing_of(self, caller: Caller) -> Bearing:
        """What is certain of a caller. What a controller passed on counts within that controller's subtree only."""
        bounds = [caller.issued_by] if caller.issued_by else []
        if caller.via:
            bounds.append(self._state.authority.domain_served_by(caller.via[0]) or "")
        return Bearing(caller.principal, tuple(bounds), caller.groups)

    def grants(self) -> Grants:
        """What everybody is granted now."""
        if self._grants is None:
            root = root_of(self._state, self._own_domain)
            configured = [(admin, Grant(Role.FLEET_ADMIN, root, "")) for admin in self._admins]
            self._grants = Grants(
                [*configured, *read_bindings(self._state)], self._state.authority, root
            )
        return self._grants

    def _narrow(
        self, method: str, request: Any, caller: Caller, bearing: Bearing, rule: Rule
    ) -> None:
        """Has a list of everything be a list of the caller's part."""
        reach = self.grants().reach(bearing, rule.role)
        root = root_of(self._state, self._own_domain)
        if root in reach:
            return
        if rule.place is Place.LISTED_HERE and self.grants().covers(
            bearing, rule.role, self._own_domain
        ):
            return
        if not reach:
            denial = self.denial(method, rule, bearing, ())
            raise _denied(method, caller, denial.text if denial else "", rule.role)
        if len(reach) > 1 or "include_subtree" not in request.DESCRIPTOR.fields_by_name:
            raise _denied(
                method,
                caller,
                f"{caller.principal} may not see all domains at once; ask for a domain of: {_some(reach)}",
                rule.role,
            )
        request.domain, request.include_subtree = reach[0], True

    def _held(self, bearing: Bearing) -> str:
        grants = sorted({f"{g.role.label} over {g.domain}" for g in self.grants().of(bearing)})
        return _some(grants) or "no role"


def _some(words: list[str]) -> str:
    shown = ", ".join(words[:DOMAINS_NAMED])
    return f"{shown} and {len(words) - DOMAINS_NAMED} more" if len(words) > DOMAINS_NAMED else shown


def _denied(
    method: str, caller: Caller, text: str, role: Role | None = None, domain: str = ""
) -> AccessDenied:
    metadata = {"principal": caller.principal, "method": method.lstrip("/")}
    if role is not None:
        metadata["role"] = role.label
    if domain:
        metadata["domain"] = domain
    return AccessDenied(text, **metadata)
