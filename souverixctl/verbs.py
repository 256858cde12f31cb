"""The groups of verbs that several nouns share: `get`, `describe`, `watch`, `create` and so on.

Owns the groups only; each noun's module adds its own verbs to them.
"""

from __future__ import annotations

from souverixctl.session import Verbs

get = Verbs(
    "get",
    help="Show one thing, or a list of them.\n\n"
    "A controller answers from what has arrived there: lists say how fresh that is.\n\n"
    "\b\nsouverixctl get nodes --domain region-a --subtree\nsouverixctl get node a1-gw-1 -o yaml",
)
describe = Verbs(
    "describe",
    help="Show everything known of one thing, to be read by people. For programs: get … -o json.\n\n"
    "\b\nsouverixctl describe node a1-gw-1",
)
watch = Verbs(
    "watch",
    help="Show what is there and then every change, until interrupted.\n\n"
    "With -o json each change is a line. A watch goes on when its stream breaks or another replica takes"
    " over.\n\n\b\nsouverixctl watch nodes --domain edge-zone-a1 -o json",
)
create = Verbs(
    "create",
    help="Create a domain, a node, a policy or a relationship.\n\n"
    "\b\nsouverixctl create node a1-gw-1 --domain edge-zone-a1 --kind gateway",
)
set_ = Verbs(
    "set",
    help="Declare what a node, a domain, a policy or a relationship should be.\n\n"
    "\b\nsouverixctl set desired-state a1-gw-1 --version 2.1.0",
)
delete = Verbs(
    "delete",
    help="Delete a node, a domain, a policy or a relationship. Ids of nodes and domains are never used again.\n\n"
    '\b\nsouverixctl delete node a1-gw-1 --reason "scrapped"',
)
move = Verbs(
    "move",
    help="Move a node to another domain.\n\n\b\nsouverixctl move node a1-gw-1 --to edge-zone-a2",
)
