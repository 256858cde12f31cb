from __future__ import annotations

from nodeagent.inventory import change_digest, judge_health, observe
from nodeagent.synthetic_host import SyntheticHost
from souverix.fleet.v1 import node_pb2, observation_pb2
from tests.unit.nodeagent.made_up import NOW_US

GIB = 1024**3


def inventory(available_bytes: int = 50 * GIB) -> observation_pb2.Inventory:
    return observation_pb2.Inventory(
        hostname="h",
        filesystems=[
            observation_pb2.Filesystem(
                mount_point="/data", capacity_bytes=100 * GIB, available_bytes=available_bytes
            )
        ],
    )


def test_an_observation_names_its_packages_and_its_time() -> None:
    observed = observe(SyntheticHost("edge-7", 1), NOW_US)
    assert list(observed.inventory.large_values) == [v.reference for v in observed.values]
    assert [value.reference.name for value in observed.values] == ["packages", "sbom"]
    assert observed.inventory.observe_time.ToMicroseconds() == NOW_US
    assert observed.package_count > 0


def test_time_and_small_moves_of_free_space_are_no_change() -> None:
    later = inventory(52 * GIB)
    later.observe_time.FromMicroseconds(NOW_US)
    assert change_digest(later) == change_digest(inventory())


def test_real_differences_are_changes() -> None:
    renamed = inventory()
    renamed.hostname = "other"
    digests = {change_digest(each) for each in (inventory(), inventory(44 * GIB), renamed)}
    assert len(digests) == 3


def test_a_nearly_full_file_system_is_degraded_health_with_a_reason() -> None:
    assert judge_health(inventory()) == (node_pb2.RUNTIME_HEALTH_OK, "")
    assert judge_health(inventory(4 * GIB)) == (
        node_pb2.RUNTIME_HEALTH_DEGRADED,
        "nearly full: /data",
    )


def test_made_up_hosts_are_the_same_for_the_same_seed_and_differ_between_nodes() -> None:
    def essence(node: str, seed: int) -> bytes:
        found = SyntheticHost(node, seed).inventory()
        found.ClearField("boot_time")
        return change_digest(found)

    assert essence("edge-1", 1) == essence("edge-1", 1)
    assert len({essence(f"edge-{number}", 1) for number in range(20)}) == 20
