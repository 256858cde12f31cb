"""Who may call what, and where: roles, the table of methods, bindings. Decides from facts and requests; never reads a
clock, a file or a network, and never writes.
"""
