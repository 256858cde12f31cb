"""A node's life: its phases and states, and what may follow what. Owns the rules; sans-IO: never writes an event, reads
a clock or asks who may decide.
"""
