from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.controller.services.served import Served, root_served


@pytest.fixture
async def root(tmp_path: Path) -> AsyncIterator[Served]:
    """The root's controller, ready to be written to."""
    async with root_served(tmp_path / "root") as controller:
        yield controller
