"""Commands: who they are for, how far they got at each node, what to do next. Pure: reads facts, does no I/O.

Theory of operation. A command is a fact in the control lane of each domain that has targets. The controller that
delivers to a domain's nodes drives one `delivery` per node through a table of transitions; whoever reads a command
composes it from both kinds of facts.
"""
