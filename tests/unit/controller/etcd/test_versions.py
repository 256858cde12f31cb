from __future__ import annotations

import pytest

from controller.etcd.errors import LossyVersion
from controller.etcd.versions import refuse_lossy_versions


@pytest.mark.parametrize("version", ["3.5.0", "3.5.1", "3.5.2", "3.5.2+git"])
def test_versions_that_lose_data_are_refused(version: str) -> None:
    with pytest.raises(LossyVersion, match=r"install 3\.5\.3 or newer"):
        refuse_lossy_versions(["3.5.30", version])


def test_versions_before_and_after_are_taken() -> None:
    refuse_lossy_versions(["3.4.23", "3.4.99", "3.5.3", "3.5.30", "3.6.0"])
