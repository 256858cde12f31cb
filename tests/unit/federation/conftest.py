"""Fixtures of the protocol's tests: a root controller and, below it, a region."""

from __future__ import annotations

import pytest

from tests.federation_fixture import ROOT, MemoryController, root_controller


@pytest.fixture
def root() -> MemoryController:
    """The controller of the root domain."""
    return root_controller()


@pytest.fixture
def region(root: MemoryController) -> MemoryController:
    """A region whose domain is declared and who knows nothing of it yet."""
    made = MemoryController("region-a-control", "region-a", root.root_signer)
    root.declare("region-a", ROOT, made)
    return made
