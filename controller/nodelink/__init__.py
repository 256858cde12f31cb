"""The controller's side of the agents' streams: who may link, what comes in over a link, what goes out.

Theory of operation. A `Link` is one stream: a bounded outbox, drained under a valid lease only. `Links` is the table of
them. What agents report becomes events through `ReportIntake`, what they answer goes to the `Dispatcher`, which drives
the commands. Heartbeats touch the table only; openings and losses become transitions. All of it stands on one
mastership: when that ends, so do the links.
"""
