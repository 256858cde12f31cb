"""What can go wrong in the agent, by who must act.

Owns the error types. Each message names the cause and the next step, for it is shown to a person as it is.
"""

from __future__ import annotations


class AgentError(Exception):
    """Root of everything the agent raises on purpose."""


class OperatorMustAct(AgentError):
    """The agent cannot start or go on until a person changes something."""


class SettingsInvalid(OperatorMustAct):
    """A setting is missing, malformed, or not allowed."""


class StateDirUnusable(OperatorMustAct):
    """The state directory cannot be used: in use by another agent, of another node, or of another version."""


class StateUnavailable(AgentError):
    """The state directory cannot be written or read now (disk full, I/O error). The agent tries again later."""


class CommandRefused(AgentError):
    """The node will not do what a command says. Its issuer must act; nothing was changed."""


class ReplayRefused(AgentError):
    """The controller asks for a replay of what this node does not have. The link is left and begun anew."""


class NumberingBegunAnew(AgentError):
    """The controller's count of reports contradicts ours; the numbering began anew and must be greeted again."""
