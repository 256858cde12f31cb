from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.controller.sync.tree import Tree, tree_in, until


@pytest.fixture
async def tree(tmp_path: Path) -> AsyncIterator[Tree]:
    """A tree without controllers yet."""
    async with tree_in(tmp_path) as tree:
        yield tree


@pytest.fixture
async def pair(tree: Tree) -> Tree:
    """ "global" and below it "zone", linked."""
    tree.add("global")
    tree.add("zone", "global")
    await tree.start()
    return tree


@pytest.fixture
async def childless(tree: Tree) -> Tree:
    """ "global" alone; its child "zone" is not started, so that a test can play it."""
    top = tree.add("global")
    tree.add("zone", "global")
    await top.start()
    await until(lambda: "zone" in top.replica.state.authority.records, "the child's domain")
    return tree
