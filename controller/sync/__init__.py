"""Sync over gRPC: drives the core's sessions over real streams. Owns sockets, tasks and timers; decides nothing.

`dialer` keeps the link to the parent, `service` takes the links of children, `driver` carries out one session's
effects, `outgoing` holds its frames. `links` knows the sessions that stand; over them `forwards` takes writes and
`large_values` chunks.
"""
