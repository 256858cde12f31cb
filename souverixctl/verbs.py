"""The groups of verbs that several nouns share: `get`, `describe`, `watch`, `create` and so on.

Owns the groups only; each noun's module adds its own verbs to them.
"""

from __future__ import annotations

from souverixctl.session import Verbs

get = Verbs(
    "get",
    help="Show one thing, or a list of them.\n\n"
    "A controller answers from what has arrived there: lists say how fresh that is.",
)
describe = Verbs("describe", help="Show everything known of one thing, to be read by people.")
watch = Verbs("watch", help="Show what is there and then every change, until interrupted.")
create = Verbs("create", help="Create a domain, a node or a policy.")
set_ = Verbs("set", help="Declare what a node or a domain should be.")
delete = Verbs("delete", help="Delete a node, a domain or a policy. Ids are never used again.")
move = Verbs("move", help="Move a node to another domain.")
