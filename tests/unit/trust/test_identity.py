import pytest

from trust.errors import NameInvalid
from trust.identity import Identity, Kind, authority_of, checked_dns_name, dns_name_of


def test_an_identity_reads_back_as_written() -> None:
    node = Identity("fleet.example", "edge-zone-a1", Kind.NODE, "gw-7")
    assert str(node) == "spiffe://fleet.example/edge-zone-a1/node/gw-7"
    assert Identity.parse(str(node)) == node
    assert node.principal == "node:gw-7"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://fleet.example/edge/node/n1",
        "spiffe://fleet.example/edge/node",
        "spiffe://fleet.example/edge/node/n1/more",
        "spiffe://fleet.example/edge/robot/n1",
        "spiffe://fleet.example//node/n1",
        "spiffe://fleet.example/Edge/node/n1",
        "spiffe://fleet.example/edge/node/..",
        "spiffe://fleet.example/edge/node/n1?x=1",
        "spiffe://fleet.example/edge/node/n1\n",
        "spiffe://fleet.example:8443/edge/node/n1",
        "spiffe://user@fleet.example/edge/node/n1",
        "spiffe://FLEET.example/edge/node/n1",
        "spiffe://fleet..example/edge/node/n1",
        "spiffe://fleet.example/edge/user/" + "a" * 600,
    ],
)
def test_what_is_no_identity_is_refused(text: str) -> None:
    with pytest.raises(NameInvalid):
        Identity.parse(text)


def test_only_the_root_is_the_root() -> None:
    assert Identity("fleet.example", "global", Kind.AUTHORITY, "root").is_root
    assert not authority_of("fleet.example", "global").is_root
    assert not Identity("fleet.example", "global", Kind.USER, "root").is_root


def test_a_controllers_dns_name_follows_from_its_path() -> None:
    assert dns_name_of(("global", "region-a"), "fleet.example") == "region-a.global.fleet.example"
    with pytest.raises(NameInvalid, match="longer than a DNS name"):
        dns_name_of([f"{'d' * 60}{n}" for n in range(5)], "fleet.example")


@pytest.mark.parametrize("name", ["*.example.net", "Example.net", "a..b", "-a.b", "a b", "", "a/b"])
def test_a_wildcard_and_what_is_no_name_name_no_server(name: str) -> None:
    with pytest.raises(NameInvalid):
        checked_dns_name(name)
