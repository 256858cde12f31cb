from __future__ import annotations

from pathlib import Path

from controller.etcd.access import Access
from controller.etcd.client import Etcd, put
from controller.log.etcd_layout import Layout
from controller.log.etcd_log import EtcdLog
from controller.writes import write_audit
from souverix.audit.v1 import audit_pb2
from souverix.audit.v1 import audit_service_pb2 as service
from tests.etcd_process import EtcdProcess
from tests.processes import ProcessStarter
from tests.unit.controller.live_controllers import as_caller, federation_in

PREFIX = "/audit"


async def test_a_byte_changed_in_etcd_is_found(
    tmp_path: Path, etcd_binary: Path, start_process: ProcessStarter
) -> None:
    etcd = EtcdProcess(start_process, etcd_binary, tmp_path / "etcd")
    etcd.start()
    access = Access(endpoints=[etcd.endpoint])
    async with federation_in(tmp_path) as federation:
        top = await federation.start_root(lambda: EtcdLog(access, PREFIX))
        record = audit_pb2.AuditRecord(principal="user:alice", message="nothing to see here")
        for _ in range(6):
            await top.submit(lambda p: write_audit(p, record, domain="global"))
        client = Etcd(access)
        await client.open()
        key = Layout(PREFIX).commit(top.state.next_offset - 3)
        stored = (await client.range(key)).kvs[0].value
        await client.txn([], [put(key, stored.replace(b"to see", b"to sEe"))], [])
        await client.close()

        request = service.VerifyAuditRequest()
        steps = [step async for step in top.audit.VerifyAudit(request, as_caller())]

        faults = {s.stream.lane: s.stream.fault for s in steps if s.stream.fault}
        assert set(faults) == {"audit", "log"}
        assert steps[-1].summary.faulty_streams == 2
