"""The table of methods: complete, and denying what it does not name."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from controller.access.methods import MACHINE_METHODS, METHODS, NEWCOMER_METHODS
from controller.access.places import Place
from controller.access.roles import Role

PROTO = Path(__file__).resolve().parents[4] / "proto"


def served_methods() -> dict[str, object]:
    """Every method of every service of the contract, with the descriptor of its request."""
    found: dict[str, object] = {}
    for path in sorted((PROTO / "souverix").rglob("*.proto")):
        module = ".".join(path.relative_to(PROTO).with_suffix("").parts) + "_pb2"
        for service in import_module(module).DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                found[f"/{service.full_name}/{method.name}"] = method.input_type
    return found


def test_every_method_of_every_service_is_in_the_table_once() -> None:
    assert set(METHODS) | set(MACHINE_METHODS) | NEWCOMER_METHODS == set(served_methods())
    assert len(METHODS) + len(MACHINE_METHODS) + len(NEWCOMER_METHODS) == len(served_methods())


#: What a request must have for its domains to be found so.
FIELDS = {
    Place.ANYWHERE: (),
    Place.OWN: (),
    Place.DOMAIN: ("domain",),
    Place.LISTED: ("domain",),
    Place.LISTED_HERE: ("domain", "include_subtree"),
    Place.NAME: ("name",),
    Place.NODE: ("node",),
    Place.NAME_AND_DOMAIN: ("name", "domain"),
    Place.PARENT_OF_DOMAIN: ("domain",),
    Place.PARENT_OF_NAME: ("name",),
    Place.PARENT_IN_SPEC: ("spec",),
    Place.ITEMS: ("items",),
    Place.TARGETS: ("targets",),
}


@pytest.mark.parametrize("method", sorted(METHODS))
def test_requests_have_the_fields_by_which_their_domains_are_found(method: str) -> None:
    descriptor = served_methods()[method]
    for field in FIELDS[METHODS[method].place]:
        assert field in descriptor.fields_by_name  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_what_changes_something_needs_more_than_reading(method: str) -> None:
    verb = method.rpartition("/")[2]
    reads = verb.startswith(
        ("Get", "List", "Watch", "Find", "Explain", "Download", "Verify", "Check", "WhoAmI")
    )
    assert reads or METHODS[method].role >= Role.OPERATOR


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_request_that_names_a_domain_is_held_to_it(method: str) -> None:
    place = METHODS[method].place
    fields = served_methods()[method].fields_by_name  # type: ignore[attr-defined]
    if "domain" in fields and METHODS[method].role is not Role.ANYBODY:
        assert "domain" in FIELDS[place]
