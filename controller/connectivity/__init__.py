"""The connectivity spectrum: which mode a node is in, by which evidence. Owns modes, thresholds and what is measured of
each node; sans-IO: never opens a link, reads a clock or writes an event.
"""
