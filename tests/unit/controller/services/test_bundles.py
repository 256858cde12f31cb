"""Exports by calls, of a controller as it runs: what is on record of them."""

from __future__ import annotations

from pathlib import Path

from souverix.bundle.v1 import bundle_service_pb2, bundle_service_pb2_grpc
from tests.unit.controller.enrolling import DEADLINE_S, DOMAIN, enrolling, laid_out
from trust.channels import open_channel


async def test_an_export_is_on_record_before_any_of_it_is_sent(tmp_path: Path) -> None:
    async with enrolling(laid_out(tmp_path / "federation")) as zone:
        tls = zone.federation.client_tls(DOMAIN)
        async with open_channel(zone.federation.address(DOMAIN), (), tls) as channel:
            call = bundle_service_pb2_grpc.BundleServiceStub(channel).ExportBundle(
                bundle_service_pb2.ExportBundleRequest(for_auditors=True), timeout=DEADLINE_S
            )
            while not (await call.read()).HasField("volume"):
                pass
            assert zone.audited("souverix.bundle.v1.BundleService/ExportBundle")
            while not (await call.read()).HasField("summary"):
                pass
            assert len(zone.audited("souverix.bundle.v1.BundleService/ExportBundle")) == 1
