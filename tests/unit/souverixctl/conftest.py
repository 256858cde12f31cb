"""Fixtures of the command line's tests: scripted controllers on real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest

from tests.unit.souverixctl.scripted import ScriptedController

Serve = Callable[[ScriptedController], Awaitable[str]]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "SOUVERIX_SERVER",
        "SOUVERIX_PRINCIPAL",
        "SOUVERIX_TLS",
        "SOUVERIX_TOKEN_FILE",
        "NO_COLOR",
        "FORCE_COLOR",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a scripted controller; returns its address. All end with the test."""
    servers: list[grpc.aio.Server] = []

    async def start(controller: ScriptedController) -> str:
        servers.append(await controller.start())
        return controller.address

    yield start
    for server in servers:
        await server.stop(grace=0)


@pytest.fixture
def controller() -> ScriptedController:
    """A controller with nothing scripted yet."""
    return ScriptedController()
