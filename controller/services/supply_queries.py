"""Questions about what nodes are made of: who runs a component, what a node's SBOMs were, which hardware is which. Owns
what is asked and how it is shown; the answers are the index's and the state's.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from controller.replica import Replica
from controller.sboms.exposure import INVALID, NEVER, Judged
from controller.sboms.live import LiveSboms, Named, Reference
from controller.sboms.store import Found
from controller.services.fleet_fields import MAX_WORD_BYTES, check_id, check_text
from controller.services.fleet_nodes import check_domain
from controller.services.fleet_rules import freshness_of, required_node
from controller.services.paging import cut, page_of
from controller.supply.gate import Gate, Standing
from controller.supply.purls import (
    MAX_RANGE_BYTES,
    BadRange,
    Package,
    VersionRange,
    read_purl,
    read_range,
)
from controller.supply.sbom import Sbom
from controller.twin.domain import live_subtree
from controller.twin.facts import body_of, timestamp
from controller.twin.node import find_node
from controller.values import DIGEST_PATTERN
from federation.errors import InvalidWrite
from federation.identifiers import Key
from federation.scan import Scan
from souverix.supply.v1 import sbom_pb2
from souverix.supply.v1 import supply_service_pb2 as supply

#: Package URLs shown of one node: versions of one package, of which a host rarely has more than two.
MAX_PURLS: Final = 16

#: Differences shown between two SBOMs.
MAX_CHANGES: Final = 1000


async def find_affected(
    replica: Replica, sboms: LiveSboms, request: Any
) -> supply.FindAffectedNodesResponse:
    """As `SupplyService.FindAffectedNodes`."""
    package, range_ = _asked_for(request)
    domain = check_id(request.domain or replica.config.controller.domain, "domain")
    check_domain(replica.state, domain)
    page = page_of(request)
    domains = replica.nodes.tree.subtree(domain) if request.include_subtree else [domain]
    await replica.nodes.caught_up()
    found = await asyncio.to_thread(sboms.store.find, package, range_)
    judged = sboms.nodes.judge(found, set(domains))
    fitting = judged.affected | judged.unknown if request.include_unknown else judged.affected
    rows = sboms.nodes.next_rows(fitting, page.after, page.size + 1).tolist()
    reply = supply.FindAffectedNodesResponse(
        counts=_counts(judged),
        version_scheme=range_.scheme if range_.is_known else "",
        as_of_time=freshness_of(replica).oldest(domains),
    )
    oldest_ms = sboms.nodes.oldest_ms(judged)
    if oldest_ms is not None:
        reply.oldest_sbom_time.CopyFrom(timestamp(oldest_ms))
    ids = replica.nodes.columns.ids
    if len(rows) > page.size:
        rows.pop()
        reply.next_page_token = page.token(ids.id_of(rows[-1]))
    for row in rows:
        reply.nodes.append(_exposure(replica, sboms, found, judged, package, row))
    return reply


async def list_unverified(
    replica: Replica, sboms: LiveSboms, request: Any
) -> supply.ListUnverifiedNodesResponse:
    """As `SupplyService.ListUnverifiedNodes`."""
    domain = check_id(request.domain or replica.config.controller.domain, "domain")
    check_domain(replica.state, domain)
    page = page_of(request)
    domains = replica.nodes.tree.subtree(domain) if request.include_subtree else [domain]
    await replica.nodes.caught_up()
    columns = replica.nodes.columns
    asked = columns.in_domains(set(domains))
    standings, of_row = _standings(replica, asked)
    known = np.array([each is not None for each in standings] or [False])
    verified = np.array([each is not None and each.is_verified for each in standings] or [False])
    unverified = asked & known[of_row] & ~verified[of_row]
    reply = supply.ListUnverifiedNodesResponse(
        node_count=int(np.count_nonzero(asked)),
        verified_count=int(np.count_nonzero(asked & verified[of_row])),
        unverified_count=int(np.count_nonzero(unverified)),
        unknown_count=int(np.count_nonzero(asked & ~known[of_row])),
        as_of_time=freshness_of(replica).oldest(domains),
    )
    rows = sboms.nodes.next_rows(unverified, page.after, page.size + 1).tolist()
    if len(rows) > page.size:
        rows.pop()
        reply.next_page_token = page.token(columns.ids.id_of(rows[-1]))
    for row in rows:
        summary, standing = columns.summary(row), standings[of_row[row]]
        if summary is not None and standing is not None:
            reply.nodes.add(
                node=columns.ids.id_of(row),
                domain=summary.domain,
                version=summary.release[0],
                artifact=standing.artifact,
                state=standing.state,
                reason=standing.words,
            )
    return reply


def _standings(replica: Replica, asked: Any) -> tuple[list[Standing | None], npt.NDArray[np.int64]]:
    """What is known of each combination of domain, component and release among the rows asked about (None: no version
    was reported), and the combination of each row.
    """
    columns = replica.nodes.columns
    gate = Gate(replica.state, time.time_ns() // 1_000_000)
    codes = np.stack(
        [columns.column(name)[asked] for name in ("domain", "component_type", "release")], axis=1
    )
    of_row = np.zeros(len(asked), np.int64)
    if not len(codes):
        return [], of_row
    combinations, inverse = np.unique(codes, axis=0, return_inverse=True)
    of_row[asked] = inverse.reshape(-1)
    values = columns.values
    found: list[Standing | None] = []
    for domain, component, release in combinations.tolist():
        version = values["release"].values[release][0]
        found.append(
            gate.standing(
                values["domain"].values[domain], version, values["component_type"].values[component]
            )
            if version
            else None
        )
    return found, of_row


async def sbom_lineage(
    replica: Replica, sboms: LiveSboms, request: Any
) -> supply.GetSbomLineageResponse:
    """As `SupplyService.GetSbomLineage`."""
    subject = f"nodes/{check_id(request.node, 'node')}"
    if request.compare_with and not DIGEST_PATTERN.fullmatch(request.compare_with):
        raise InvalidWrite(
            "compare_with is not of the form sha256: and 64 hexadecimal digits",
            field="compare_with",
        )
    at = required_node(replica.state, subject)
    held = body_of(replica.state, Key(at.home.domain, subject, "node_sbom"))
    versions = list(held.versions) if held is not None else []
    reply = supply.GetSbomLineageResponse(versions=versions)
    digest = request.compare_with or (versions[1].digest if len(versions) > 1 else "")
    if not digest:
        return reply
    if digest not in [version.digest for version in versions]:
        raise InvalidWrite(
            f"{digest} is not in the lineage of {subject}", field="compare_with", subject=subject
        )
    new = await _document(sboms, subject, versions[0].digest)
    old = await _document(sboms, subject, digest)
    if new is not None and old is not None:
        reply.compared = True
        reply.changes.extend(_changes(old, new))
    return reply


def find_hardware(replica: Replica, request: Any) -> supply.FindHardwareResponse:
    """As `SupplyService.FindHardware`."""
    if bool(request.serial) == bool(request.batch_id):
        raise InvalidWrite("either serial or batch_id is required", field="serial")
    for field in ("serial", "batch_id"):
        check_text(getattr(request, field), field, MAX_WORD_BYTES)
    if request.domain:
        check_domain(replica.state, check_id(request.domain, "domain"))
    page = page_of(request)
    units, token = cut(_units(replica, request), page, lambda unit: str(unit.node))
    return supply.FindHardwareResponse(units=units, next_page_token=token)


def _asked_for(request: Any) -> tuple[Package, VersionRange]:
    purl = read_purl(request.purl)
    if purl is None:
        raise InvalidWrite(
            f"purl {request.purl[:80]!r} is no package URL, such as pkg:deb/debian/openssl",
            field="purl",
        )
    check_text(request.version_range, "version_range", MAX_RANGE_BYTES)
    try:
        return purl.package, read_range(request.version_range, purl.package)
    except BadRange as error:
        raise InvalidWrite(f"version_range: {error}", field="version_range") from error


def _counts(judged: Judged) -> supply.ExposureCounts:
    def count(mask: Any) -> int:
        return int(np.count_nonzero(mask))

    not_affected = judged.asked & ~judged.affected & ~judged.unknown
    return supply.ExposureCounts(
        nodes=count(judged.asked),
        affected=count(judged.affected),
        not_affected=count(not_affected),
        unknown_no_sbom=count(judged.no_sbom),
        unknown_not_read=count(judged.not_read),
        unknown_invalid_sbom=count(judged.invalid),
        unknown_version=count(judged.unknown_version),
    )


def _exposure(
    replica: Replica, sboms: LiveSboms, found: Found, judged: Judged, package: Package, row: int
) -> supply.NodeExposure:
    columns = replica.nodes.columns
    node = columns.ids.id_of(row)
    domain = columns.values["domain"].values[int(columns.column("domain")[row])]
    shown = supply.NodeExposure(node=node, domain=domain, exposure=_word(judged, row))
    document = sboms.nodes.document_of(row)
    if 0 <= document < found.documents:
        holders = [version for version, bits in found.holders.items() if bits[document]]
        shown.purls.extend(package.purl(version) for version in sorted(holders)[:MAX_PURLS])
    named = sboms.sbom_of(f"nodes/{node}") if document >= INVALID else None
    if named is not None:
        shown.sbom_digest = named.digest
        if named.observed_ms != NEVER:
            shown.sbom_time.CopyFrom(timestamp(named.observed_ms))
    return shown


def _word(judged: Judged, row: int) -> supply.Exposure:
    for mask, exposure in (
        (judged.affected, supply.EXPOSURE_AFFECTED),
        (judged.no_sbom, supply.EXPOSURE_UNKNOWN_NO_SBOM),
        (judged.not_read, supply.EXPOSURE_UNKNOWN_NOT_READ),
        (judged.invalid, supply.EXPOSURE_UNKNOWN_INVALID_SBOM),
        (judged.unknown_version, supply.EXPOSURE_UNKNOWN_VERSION),
    ):
        if mask[row]:
            return exposure
    return supply.EXPOSURE_NOT_AFFECTED


async def _document(sboms: LiveSboms, subject: str, digest: str) -> Sbom | None:
    """A document of a node's lineage. The chunks of one it has no more are known only while they are one."""
    named = sboms.sbom_of(subject)
    if named is None or named.digest != digest:
        named = Named(Reference(digest, (digest,)), NEVER)
    return await sboms.document(named)


def _changes(old: Sbom, new: Sbom) -> Iterator[sbom_pb2.ComponentChange]:
    before, after = _versions(old), _versions(new)
    changed = sorted(p for p in {*before, *after} if before.get(p) != after.get(p))
    for package in changed[:MAX_CHANGES]:
        yield sbom_pb2.ComponentChange(
            purl=package.purl(),
            versions_before=before.get(package, []),
            versions_after=after.get(package, []),
        )


def _versions(sbom: Sbom) -> Mapping[Package, list[str]]:
    found: dict[Package, list[str]] = defaultdict(list)
    for component in sbom.components:
        found[component.package].append(component.version)
    return found


def _units(replica: Replica, request: Any) -> Iterator[supply.RegisteredUnit]:
    state = replica.state
    scan = Scan(state)
    # The text stands in the event as it is; only an event that holds it is worth decoding.
    wanted = (request.serial or request.batch_id).encode()
    within = (
        set(live_subtree(state, request.domain) if request.include_subtree else [request.domain])
        if request.domain
        else None
    )
    for domain, subject in state.subjects_everywhere("nodes"):
        if within is not None and domain not in within:
            continue
        winner = scan.winner(Key(domain, subject, "node_spec"))
        if winner is None or wanted not in winner.raw:
            continue
        hardware = winner.body().hardware
        if (request.serial and hardware.serial != request.serial) or (
            request.batch_id and hardware.batch_id != request.batch_id
        ):
            continue
        at = find_node(state, subject)
        if at is not None and at.home.domain == domain:
            yield supply.RegisteredUnit(node=at.node_id, domain=domain, hardware=hardware)
