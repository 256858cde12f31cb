"""What real processes tell: a command is one trace from the command line to the node and back, also when the zone was
cut off when it was issued; metrics reach an OTLP receiver and can be scraped.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from controller.telemetry import catalogue
from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from nodeagent import telemetry as agent_telemetry
from tests.e2e.clients import DEADLINE_S, wait_until
from tests.e2e.link_proxy import LinkProxy
from tests.e2e.otlp_receiver import OtlpReceiver, SeenSpan
from tests.processes import free_port

ROOT, ZONE, NODE = "region-a", "edge-zone-a1", "n1"


@dataclass
class Told:
    """A region, a zone behind a link, a node of the zone, and where all of them tell."""

    federation: LocalFederation
    link: LinkProxy
    receiver: OtlpReceiver
    prometheus_port: int

    def ctl(self, *arguments: str) -> tuple[str, str]:
        """Runs the command line against the region in a new trace: its output, and the trace's id."""
        command = [sys.executable, "-m", "souverixctl.main", *arguments]
        command += ["--server", self.federation.server(ROOT), "--traceparent", "new", "-o", "json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        (line,) = [each for each in done.stderr.splitlines() if each.startswith("trace ")]
        return done.stdout, line.removeprefix("trace ")

    def wait_for_spans(self, trace_id: str, names: set[str]) -> list[SeenSpan]:
        """The spans of a trace, once these have come."""

        def missing() -> set[str]:
            return names - {each.name for each in self.receiver.spans(trace_id)}

        wait_until(lambda: not missing(), f"spans {names} of trace {trace_id}")
        return self.receiver.spans(trace_id)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    plans = [
        DomainPlan(ROOT, kind="global", level="global", log="sqlite"),
        DomainPlan(ZONE, ROOT, log="sqlite"),
    ]
    federation = LocalFederation(tmp_path_factory.mktemp("federation"), plans)
    port = free_port()
    with OtlpReceiver() as receiver, LinkProxy(federation.address(ROOT)) as link:
        federation.parent_addresses[f"{ZONE}-control"] = [link.endpoint]
        with federation:
            for domain in (ROOT, ZONE):
                page = f'prometheus_address = "127.0.0.1:{port}"\n' if domain == ZONE else ""
                with federation.config_path(domain).open("a") as file:
                    file.write(
                        f'[telemetry]\nendpoint = "http://{receiver.address}"\ninterval_s = 0.5\n{page}'
                    )
                federation.start_controller(domain)
            for domain in (ROOT, ZONE):
                federation.wait_for_master(domain)
                federation.wait_for_authority(domain)
            federation.start_agent(ZONE, NODE, *_agent_options(federation, receiver))
            told = Told(federation, link, receiver, port)
            wait_until(lambda: NODE in _nodes(told), f"{NODE} known to {ROOT}")
            yield told


def _agent_options(federation: LocalFederation, receiver: OtlpReceiver) -> list[str]:
    path = federation.directory / "agent.toml"
    path.write_text("[telemetry]\ninterval_s = 0.5\n")
    return ["--config", str(path), "--otlp-endpoint", f"http://{receiver.address}"]


def _nodes(told: Told) -> set[str]:
    nodes = json.loads(told.ctl("get", "nodes", "--domain", ZONE)[0]).get("nodes", [])
    return {node["id"] for node in nodes}


def _below(spans: list[SeenSpan], name: str) -> Callable[[str], bool]:
    """Tells whether a span of a name stands below this one."""
    by_id = {span.span_id: span for span in spans}

    def holds(upper: str) -> bool:
        at = next(span for span in spans if span.name == name)
        while at.parent_id in by_id:
            at = by_id[at.parent_id]
            if at.name == upper:
                return True
        return False

    return holds


ISSUE = "souverix.command.v1.CommandService/IssueCommand"
WAY = {ISSUE, "write.commit", "write.decide", "log.append"}
WAY_BACK = {"command.send", "command.run", "command.answer", "command.outcome"}


def test_a_command_is_one_trace_from_the_command_line_to_the_node_and_back(told: Told) -> None:
    run = "souverixctl command ping"
    endpoint = f"http://{told.receiver.address}"
    _, trace_id = told.ctl("command", "ping", NODE, "--wait", "--otlp-endpoint", endpoint)
    spans = told.wait_for_spans(trace_id, {run} | WAY | WAY_BACK)
    services = {(each.name, each.service, each.instance) for each in spans}
    assert (ISSUE, "souverix-controller", f"{ROOT}-control/r1") in services
    assert ("command.send", "souverix-controller", f"{ZONE}-control/r1") in services
    assert ("command.run", "souverix-node", NODE) in services
    assert ("command.answer", "souverix-controller", f"{ZONE}-control/r1") in services
    assert ("command.outcome", "souverix-controller", f"{ROOT}-control/r1") in services
    assert _below(spans, "command.answer")("command.run")
    assert _below(spans, "command.run")("command.send")
    assert _below(spans, "command.send")(ISSUE)
    assert _below(spans, ISSUE)(run)
    assert [each.parent_id for each in spans if each.service == "souverixctl"] == [""]


def test_a_command_issued_while_its_zone_was_cut_off_is_one_trace_too(told: Told) -> None:
    told.link.cut()
    issued, trace_id = told.ctl("command", "ping", NODE, "--ttl", "10m")
    told.wait_for_spans(trace_id, WAY)
    assert not {each.name for each in told.receiver.spans(trace_id)} & WAY_BACK
    told.link.heal()
    spans = told.wait_for_spans(trace_id, WAY_BACK)
    assert _below(spans, "command.answer")(ISSUE)
    command_id = json.loads(issued)["command"]["id"]
    for name in WAY_BACK:
        assert [s.attributes["souverix.command.id"] for s in spans if s.name == name] == [
            command_id
        ]


def test_a_write_that_is_passed_on_is_one_trace(told: Told) -> None:
    def attempt() -> str:
        name = f"t{time.monotonic_ns()}"
        return told.ctl("create", "policy", f"{ZONE}/{name}", "--version", "v1")[1]

    spans = told.wait_for_spans(attempt(), {"write.forward", "sync.forward", "log.append"})
    (served,) = [each for each in spans if each.name == "sync.forward"]
    assert served.instance == f"{ZONE}-control/r1"
    assert _below(spans, "sync.forward")("write.forward")


def test_a_session_tells_its_phases_and_what_it_took(told: Told) -> None:
    def told_names() -> set[str]:
        return {each.name for each in told.receiver.spans()}

    wait_until(
        lambda: {"sync.greeting", "sync.comparing", "sync.ingest"} <= told_names(),
        "spans of a sync session",
    )


def test_log_lines_in_a_trace_name_it(told: Told) -> None:
    log = Path(told.federation.processes[f"agent/{NODE}"].log_path)
    _, trace_id = told.ctl("command", "refresh-inventory", NODE, "--wait")
    told.wait_for_spans(trace_id, {"command.run"})
    lines = [each for each in log.read_text().splitlines() if f"trace_id={trace_id}" in each]
    assert lines
    assert all("span_id=" in each for each in lines)


def test_metrics_reach_the_receiver(told: Told) -> None:
    expected = {metric.name for metric in catalogue.METRICS} - {catalogue.RPC_REFUSALS.name}
    wait_until(
        lambda: expected <= told.receiver.metrics("souverix-controller"),
        f"all of {sorted(expected)}",
    )
    of_agent = {metric.name for metric in agent_telemetry.AGENT_METRICS}
    wait_until(lambda: of_agent <= told.receiver.metrics("souverix-node"), "metrics of the agent")


def test_prometheus_can_scrape(told: Told) -> None:
    def samples() -> dict[str, list[tuple[dict[str, str], float]]]:
        url = f"http://127.0.0.1:{told.prometheus_port}/metrics"
        with urllib.request.urlopen(url, timeout=DEADLINE_S) as page:
            text = page.read().decode()
        found: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append((sample.labels, sample.value))
        return found

    def linked() -> bool:
        return [value for _, value in samples().get("souverix_node_links", [])] == [1.0]

    wait_until(linked, "the link of the node is gauged")
    seen = samples()
    assert [value for _, value in seen["souverix_mastership_held"]] == [1.0]
    assert seen["souverix_log_commits"][0][1] > 0
    assert seen["process_memory_usage_bytes"][0][1] > 1e7
    peers = {labels["souverix_peer"] for labels, _ in seen["souverix_sync_debt_seconds"]}
    assert peers == {f"{ROOT}-control"}
    modes = {
        labels["souverix_connectivity_mode"]: value
        for labels, value in seen["souverix_node_count"]
        if labels["souverix_domain"] == ZONE
    }
    assert modes["live"] == 1.0
    assert seen["souverix_log_commit_duration_seconds_count"][0][1] > 0
    assert not any(NODE in labels.values() for held in seen.values() for labels, _ in held)


def test_a_relay_tells_what_it_carries_and_keeps(told: Told) -> None:
    expected = {m.name for m in (*agent_telemetry.AGENT_METRICS, *agent_telemetry.RELAY_METRICS)}
    told.federation.start_relay(ZONE, "relay-1", *_agent_options(told.federation, told.receiver))
    wait_until(
        lambda: expected <= told.receiver.metrics("souverix-relay"), f"all of {sorted(expected)}"
    )
