"""How masters agree: streams, merge, authority, acceptance and sync, as pure state and pure decisions.

Theory of operation. A controller's whole knowledge is a fold over its log:

    Commit -> State.apply -> changes

A local write is a `Proposal` against that state: it reads through an overlay, drafts events into the controller's
own streams, seals them and yields the bytes of one commit. What arrives from peers enters through the same
proposal, so that receipt and local writes share one log and one order. `Session` turns the difference between two
controllers' positions into frames, and frames into runs to be proposed.

Nothing here does I/O, tells time, rolls dice or makes ids: drivers pass those in, and decide nothing themselves.
"""
