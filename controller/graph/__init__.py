"""The fleet graph: vertices, edges, ways and what fails with what. Pure logic over facts; what is declared is kept as
an adjacency, all else is derived when it is asked for.
"""
