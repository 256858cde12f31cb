"""Bare etcds to compare with, and puts into them. Owns what a baseline does; knows nothing of controllers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from controller.etcd.access import Access
from controller.etcd.client import Etcd
from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from deploy.local_processes import find_program

#: A mirror that has not caught up by then never will.
MIRROR_TIMEOUT_S = 60.0


class BareEtcds:
    """Etcds with fsync and nothing else, as a federation's are started. Use as a context manager."""

    def __init__(self, directory: Path, names: Sequence[str]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._etcds = LocalFederation(directory, [DomainPlan(name) for name in names])
        for name in names:
            self._etcds.start_etcd(name)

    def __enter__(self) -> BareEtcds:
        return self

    def __exit__(self, *_: object) -> None:
        self._etcds.stop()

    def endpoint(self, name: str) -> str:
        """Where one listens."""
        return self._etcds.etcd_endpoint(name)


async def put_rate(endpoint: str, values: Sequence[bytes], in_flight: int) -> float:
    """Puts a second of these values, each under its own key, with so many in flight."""
    async with Etcd(Access([endpoint])) as etcd:
        numbered = iter(enumerate(values))

        async def put_some() -> None:
            for number, value in numbered:
                await etcd.put(_key("put", number), value)

        began_s = time.perf_counter()
        await asyncio.gather(*(put_some() for _ in range(in_flight)))
        return len(values) / (time.perf_counter() - began_s)


async def sequential_put_ms(endpoints: Sequence[str], values: Sequence[bytes]) -> list[float]:
    """For each value, how long it takes to put it into one etcd after another, in milliseconds."""
    etcds = [Etcd(Access([endpoint])) for endpoint in endpoints]
    try:
        for etcd in etcds:
            await etcd.open()
        took_ms = []
        for number, value in enumerate(values):
            began_s = time.perf_counter()
            for etcd in etcds:
                await etcd.put(_key("put", number), value)
            took_ms.append((time.perf_counter() - began_s) * 1000)
        return took_ms
    finally:
        for etcd in etcds:
            await etcd.close()


async def fill(endpoint: str, values: Sequence[bytes]) -> None:
    """Puts the values that a mirror is to copy."""
    async with Etcd(Access([endpoint])) as etcd:
        numbered = iter(enumerate(values))

        async def put_some() -> None:
            for number, value in numbered:
                await etcd.put(_key("mirrored", number), value)

        await asyncio.gather(*(put_some() for _ in range(64)))


async def mirror_rate(source: str, target: str, count: int, target_prefix: str) -> float:
    """Keys a second that `etcdctl make-mirror` copies to a fresh prefix, of `count` that `fill` has put."""
    last = f"{target_prefix}/".encode() + _key("mirrored", count - 1)[len(b"mirrored/") :]
    command = [
        find_program("etcdctl"),
        f"--endpoints={source}",
        "make-mirror",
        "--prefix=mirrored/",
        f"--dest-prefix={target_prefix}/",
        target,
    ]
    async with Etcd(Access([target])) as etcd:
        began_s = time.perf_counter()
        mirror = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            while not (await etcd.range(last)).kvs:
                if (
                    time.perf_counter() - began_s > MIRROR_TIMEOUT_S
                    or mirror.returncode is not None
                ):
                    raise TimeoutError(f"make-mirror did not copy {count} keys")
                await asyncio.sleep(0.01)
            return count / (time.perf_counter() - began_s)
        finally:
            mirror.terminate()
            await mirror.wait()


def _key(prefix: str, number: int) -> bytes:
    return f"{prefix}/{number:08d}".encode()
