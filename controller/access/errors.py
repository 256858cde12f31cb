"""What is refused for want of a right. The caller must be given a role, or ask for less."""

from __future__ import annotations

from federation.errors import FederationError


class AccessDenied(FederationError):
    """The caller has no role that allows the call where it was asked for."""

    reason = "ACCESS_DENIED"
