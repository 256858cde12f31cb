"""How much evidence it takes to change a node's mode, per domain. Owns the defaults and their reasons; never applies
them.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Round trip from which a node is not live but delayed: beyond a second people and timers notice.
DELAYED_RTT_S = 1.0

#: Share of that below which it is live again: between both, nothing changes, so that jitter around the line is no news.
LIVE_RTT_SHARE = 0.7

#: How long round trips must stay beyond a line: a burst on a busy link ends within a few heartbeats.
RTT_SETTLE_S = 10.0

#: How long no link may stand before the node counts as cut off. An agent that lost its stream dials at once, and has
#: tried every address within seconds; a change of master takes one lease. Shorter gaps are flapping.
AUTONOMOUS_AFTER_S = 10.0

#: How long a silent node is trusted to be working on: the seeds' example is away for 17 hours.
DISCONNECTED_AFTER_S = 24 * 3600.0

#: How long a link must stand for a node that came by at intervals to be live: longer than the visits of one that only
#: syncs.
STEADY_AFTER_S = 60.0

#: Reports that must wait for a return to be a replay. An agent that starts brings its state and its inventory; fewer
#: than twice that is ordinary traffic.
REPLAY_BACKLOG = 4


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The thresholds of one domain."""

    delayed_rtt_s: float = DELAYED_RTT_S
    live_rtt_share: float = LIVE_RTT_SHARE
    rtt_settle_s: float = RTT_SETTLE_S
    autonomous_after_s: float = AUTONOMOUS_AFTER_S
    disconnected_after_s: float = DISCONNECTED_AFTER_S
    steady_after_s: float = STEADY_AFTER_S
    replay_backlog: int = REPLAY_BACKLOG
