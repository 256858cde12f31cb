from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.controller.nodelink.served_links import Directory, Served


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    """Where a controller keeps what it must remember."""
    return Directory(tmp_path / "controller")


@pytest.fixture
async def served(directory: Directory) -> AsyncIterator[Served]:
    """The root's controller, master of its log, with the node n1."""
    async with directory.served() as controller:
        await controller.create_node("n1")
        yield controller
