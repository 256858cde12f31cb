"""Sync over gRPC: drives the core's sessions over real streams. Owns sockets, tasks and timers; decides nothing.

`dialer` keeps the link to the parent, `service` takes the links of children, `driver` carries out one session's
effects, `links` knows the sessions that stand and takes writes over them.
"""
