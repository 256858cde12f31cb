"""Step: the certificate of a node is revoked while its agent is linked. Owns that step."""

from __future__ import annotations

import json
import re

from deploy.demo.attention import show_item
from deploy.demo.client import Client
from deploy.demo.node_return import LIVE, in_mode
from deploy.demo.questions import node_at
from deploy.demo.shell import play_line, souverixctl
from deploy.demo.stage import GLOBAL, LENT_NODE, ZONE_A2, Seen, Stage, expect
from deploy.local_processes import RunningProcess
from souverix.attention.v1 import attention_pb2
from souverix.fleet.v1 import node_pb2

#: What an agent logs when its stream has ended, and when it was not let in again.
LINK_LEFT = re.compile(r" link_left .*")
REFUSED = re.compile(r" dial_failed .*\bdetail=(\"UNAUTHENTICATED .* was revoked .*\")")

CALLS_AGAIN = attention_pb2.ATTENTION_KIND_REVOKED_CALLER


async def revoke(stage: Stage) -> str:
    """Links the lent node, revokes what it was issued, and sees its stream end and its next call refused."""
    top, zone = stage.client(GLOBAL), stage.client(ZONE_A2)
    agent = stage.federation.start_agent(ZONE_A2, LENT_NODE)
    stage.remember_processes()
    await stage.until(f"{LENT_NODE} live at {GLOBAL}", lambda: in_mode(top, LIVE, LENT_NODE))
    await stage.until(f"the inventory of {LENT_NODE} at {GLOBAL}", lambda: _inventory(top))
    stage.display.happened(f"the true {LENT_NODE} has joined {ZONE_A2}, and is LIVE at {GLOBAL}")
    expect(not LINK_LEFT.search(_log(agent)), f"{LENT_NODE} has lost its link by itself")
    order = (
        f"certificate revoke node:{LENT_NODE} --domain {ZONE_A2} --reason 'was lent, and misused'"
    )
    await play_line(stage, f"{souverixctl(stage, ZONE_A2)} {order}")
    await stage.until("its stream ends", lambda: _logged(agent, LINK_LEFT))
    stage.display.happened("its stream has ended")
    told, _ = await stage.until("it is refused", lambda: _logged(agent, REFUSED))
    stage.display.happened(f"it calls again, and is refused: {json.loads(told[1])}")
    await show_item(stage, zone, ZONE_A2, CALLS_AGAIN, f"nodes/{LENT_NODE}")
    stage.federation.processes.pop(f"agent/{LENT_NODE}").stop()
    return "its stream ended with it, its next call was refused and raised"


def _log(agent: RunningProcess) -> str:
    return agent.log_path.read_text(errors="replace")


async def _logged(agent: RunningProcess, wanted: re.Pattern[str]) -> Seen[re.Match[str]]:
    return Seen(f"{LENT_NODE} goes on", wanted.search(_log(agent)))


async def _inventory(client: Client) -> Seen[node_pb2.Node]:
    node = await node_at(client, LENT_NODE)
    return Seen(f"{LENT_NODE} is known", node if node.HasField("inventory") else None)
