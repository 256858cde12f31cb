"""Files of signing keys: which one seals follows the log, and a crash in between is healed by it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from controller.signing import Ed25519Signer
from controller.signing_keys import SigningKeys
from federation.errors import WrongState
from tests.federation_fixture import MemoryController, controller_below, root_controller


@pytest.fixture
def region() -> MemoryController:
    return controller_below(root_controller(), "region-a-control", "region-a")


@pytest.fixture
def path(tmp_path: Path, region: MemoryController) -> Path:
    made = tmp_path / "key.pem"
    region.signer.save(made)
    return made


def follow(keys: SigningKeys, region: MemoryController) -> None:
    keys.follow(region.state, region.identity.origin, "region-a")


def succeed(region: MemoryController, key: Ed25519Signer) -> None:
    region.submit(lambda p: p.succeed(key.public_key, principal="x"))


def test_the_next_key_seals_once_the_log_says_so_and_not_before(
    path: Path, region: MemoryController
) -> None:
    keys = SigningKeys.load(path)
    following = keys.prepare()
    follow(keys, region)
    assert keys.key_id == region.signer.key_id

    succeed(region, following)
    follow(keys, region)

    assert keys.key_id == following.key_id == Ed25519Signer.load(path).key_id
    assert keys.next is None
    assert not path.with_name("key.pem.next").exists()


def test_the_next_key_is_readable_by_its_owner_only_and_made_once(path: Path) -> None:
    keys = SigningKeys.load(path)
    assert keys.prepare().key_id == keys.prepare().key_id
    mode = path.with_name("key.pem.next").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_a_crash_before_the_files_were_exchanged_is_healed_at_the_next_start(
    path: Path, region: MemoryController
) -> None:
    following = SigningKeys.load(path).prepare()
    succeed(region, following)

    keys = SigningKeys.load(path)
    follow(keys, region)

    assert keys.key_id == following.key_id == Ed25519Signer.load(path).key_id


def test_a_replica_that_shares_the_file_follows_the_one_that_exchanged_it(
    path: Path, region: MemoryController
) -> None:
    master, standby = SigningKeys.load(path), SigningKeys.load(path)
    succeed(region, master.prepare())
    follow(master, region)

    standby.look()
    follow(standby, region)

    assert standby.key_id == master.key_id


def test_a_file_that_holds_no_key_is_no_key(path: Path) -> None:
    path.with_name("key.pem.next").write_text("nonsense")
    with pytest.raises(ValueError):  # noqa: PT011 as the library says it
        SigningKeys.load(path).look()


def test_a_key_without_a_file_cannot_be_followed(region: MemoryController) -> None:
    with pytest.raises(WrongState):
        SigningKeys(region.signer).prepare()
