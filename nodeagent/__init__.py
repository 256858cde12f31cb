"""The reference node agent: one stream to its controller, and a memory that outlives outages.

Owns what a node keeps (identity, fence, backlog of reports, ledger of commands, configuration) and how it
speaks with its controller. Must never import the controller or the federation: the contract is all it knows.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    AGENT_VERSION = version("souverix-control-plane")
except PackageNotFoundError:
    AGENT_VERSION = "0+unknown"
