"""A replica follows its certificate files: what is new is shown, what is broken changes nothing and is told once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import grpc
import pytest

from controller import certificate_duty
from controller.bearer import Bearers
from controller.certificate_duty import CertificateDuty
from controller.changes import Changes
from tests.certificates import CertificateTree
from tests.federation_fixture import root_controller
from trust.certificates import fingerprint
from trust.channels import ListenerTls, served_certificate
from trust.files import ReloadedCredentials
from trust.identity import Kind


class Followed:
    """A listener whose files are followed."""

    def __init__(self, tree: CertificateTree, held: ReloadedCredentials, address: str) -> None:
        self.tree = tree
        self.held = held
        self.address = address

    def renew(self) -> None:
        directory = self.held.files.certificate.parent
        self.tree.leaf("global", Kind.CONTROLLER, "global-control", into=directory)


@pytest.fixture
async def followed(
    certificate_tree: CertificateTree, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Followed]:
    monkeypatch.setattr(certificate_duty, "LOOK_S", 0.01)
    held = ReloadedCredentials(certificate_tree.controller("global"))
    bearers = Bearers(held, root_controller().state)
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", ListenerTls(held).credentials())
    await server.start()
    address = f"127.0.0.1:{port}"
    running = asyncio.create_task(CertificateDuty(held, bearers, Changes(), [address]).run())
    yield Followed(certificate_tree, held, address)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await server.stop(0)


async def said(caplog: pytest.LogCaptureFixture, text: str) -> None:
    async with asyncio.timeout(10):
        while text not in caplog.text:  # noqa: ASYNC110 a log has no event
            await asyncio.sleep(0.01)


async def test_a_renewed_certificate_is_shown_and_told(
    followed: Followed, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = followed.held.current.leaf
    followed.renew()
    await said(caplog, "certificate renewed")
    shown = await asyncio.to_thread(served_certificate, followed.address)
    assert fingerprint(shown) == fingerprint(followed.held.current.leaf) != fingerprint(before)


async def test_a_broken_file_changes_nothing_and_is_told_once(
    followed: Followed, caplog: pytest.LogCaptureFixture
) -> None:
    before = followed.held.current
    followed.held.files.certificate.write_bytes(b"torn")
    await said(caplog, "certificates cannot be read again")
    await asyncio.sleep(0.1)
    assert followed.held.current is before
    assert caplog.text.count("certificates cannot be read again") == 1
