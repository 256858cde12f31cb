"""Read models over all nodes: columns, filters, orders and counts. Pure but for NumPy: no I/O, clock or tasks but in
`live`, which follows a replica.
"""
