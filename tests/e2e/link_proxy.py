"""A link between two controllers that a test cuts and heals: the TCP proxy, run in a thread of its own so that tests
need no event loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Self

from deploy.tcp_proxy import TcpProxy


class LinkProxy:
    """Relays to one address while its block runs."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._proxy = TcpProxy(host, int(port))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._proxy.__aenter__(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._proxy.__aexit__(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def endpoint(self) -> str:
        """The address to dial."""
        return self._proxy.endpoint

    @property
    def connections(self) -> int:
        """Connections that pass through now."""
        return self._proxy.connections

    @property
    def swallowed_bytes(self) -> int:
        """Bytes lost so far."""
        return self._proxy.swallowed_bytes

    def cut(self) -> None:
        """Ends every connection and takes no new one."""
        self._call(self._proxy.cut)

    def stall(self) -> None:
        """Holds all bytes."""
        self._call(self._proxy.stall)

    def stall_after(self, request_bytes: int) -> None:
        """Lets so many bytes through to the target, and then holds all."""
        self._call(lambda: self._proxy.stall_after(request_bytes))

    def swallow_replies(self) -> None:
        """Loses what the target sends."""
        self._call(self._proxy.swallow_replies)

    def reset_connections(self) -> None:
        """Ends every connection; new ones work."""
        self._call(self._proxy.reset_connections)

    def heal(self) -> None:
        """Lets everything through again."""
        self._call(self._proxy.heal)

    def _call(self, action: Callable[[], None]) -> None:
        done = threading.Event()

        def run() -> None:
            action()
            done.set()

        self._loop.call_soon_threadsafe(run)
        done.wait()
