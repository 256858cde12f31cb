from __future__ import annotations

import json
from typing import Any

import pytest
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component as BomComponent
from cyclonedx.output.json import JsonV1Dot5, JsonV1Dot6
from packageurl import PackageURL

from controller.supply import sbom
from controller.supply.documents import BadDocument
from controller.supply.purls import Package
from controller.supply.sbom import Component, read_sbom


def component(name: str, version: str = "1.0", **more: Any) -> dict[str, Any]:
    purl = f"pkg:deb/debian/{name}@{version}"
    return {"type": "library", "name": name, "version": version, "purl": purl, **more}


def document(*components: dict[str, Any], **more: Any) -> bytes:
    return json.dumps(
        {"bomFormat": "CycloneDX", "specVersion": "1.6", "components": components, **more}
    ).encode()


def reason(data: bytes) -> str:
    with pytest.raises(BadDocument) as caught:
        read_sbom(data)
    return caught.value.reason


@pytest.mark.parametrize(("writer", "version"), [(JsonV1Dot5, "1.5"), (JsonV1Dot6, "1.6")])
def test_documents_of_the_cyclonedx_library_are_read(writer: Any, version: str) -> None:
    bom = Bom()
    for name in ("requests", "urllib3"):
        purl = PackageURL("pypi", None, name, "2.0")
        bom.components.add(BomComponent(name=name, version="2.0", purl=purl, bom_ref=name))

    found = read_sbom(writer(bom).output_as_string().encode())

    assert found.spec_version == version
    assert found.components == (
        Component(Package("pypi", "", "requests"), "2.0"),
        Component(Package("pypi", "", "urllib3"), "2.0"),
    )


def test_components_within_components_count_and_those_without_identity_are_told() -> None:
    inner = component("b")
    unnamed = {"type": "file", "name": "a.conf"}
    unversioned = {"type": "library", "name": "c", "purl": "pkg:deb/debian/c"}

    found = read_sbom(document(component("a", components=[inner]), unnamed, unversioned))

    assert [each.package.name for each in found.components] == ["a", "b"]
    assert (found.component_count, found.unidentified_count) == (4, 2)


def test_version_beside_the_purl_counts_where_the_purl_has_none() -> None:
    found = read_sbom(document(component("a") | {"purl": "pkg:deb/debian/a", "version": "7"}))
    assert found.components[0].version == "7"


@pytest.mark.parametrize(
    "changes",
    [
        {"components": "many"},
        {"components": [7]},
        {"components": [{"name": "a"}]},
        {"components": [component("a") | {"type": "planet"}]},
        {"components": [component("a") | {"name": 5}]},
        {"components": [component("a") | {"unheard-of": 1}]},
        {"components": [component("a"), component("a")]},
        {"unheard-of": 1},
        {"version": "one"},
        {"metadata": []},
        {"dependencies": [{"dependsOn": []}]},
    ],
    ids=str,
)
def test_what_the_strict_schema_forbids_is_refused(changes: dict[str, Any]) -> None:
    assert reason(json.dumps(json.loads(document()) | changes).encode()) == "SBOM_INVALID"


def test_error_far_down_a_long_list_is_found() -> None:
    components = [component(f"c{number}") for number in range(sbom.PIECE * 2 + 3)]
    components[-1]["unheard-of"] = 1
    assert reason(document(*components)) == "SBOM_INVALID"


def test_other_formats_and_versions_are_refused() -> None:
    assert reason(b'{"spdxVersion": "SPDX-2.3"}') == "SBOM_NO_CYCLONEDX"
    assert reason(b"[]") == "SBOM_NO_CYCLONEDX"
    assert reason(b'{"bomFormat": "CycloneDX", "specVersion": "9.9"}') == "SBOM_VERSION_UNKNOWN"
    assert reason(b'{"bomFormat": "CycloneDX", "specVersion": [1]}') == "SBOM_VERSION_UNKNOWN"


def test_long_lists_are_refused_before_they_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sbom, "MAX_COMPONENTS", 10)
    assert reason(document(*(component(f"c{n}") for n in range(11)))) == "SBOM_TOO_LARGE"
    properties = [{"name": str(n), "value": "v"} for n in range(sbom.MAX_INNER_ITEMS + 1)]
    assert reason(document(component("a", properties=properties))) == "SBOM_TOO_LARGE"
    nested = component("a", components=[component(f"n{n}") for n in range(10)])
    assert reason(document(nested)) == "SBOM_TOO_LARGE"


def test_names_too_long_to_be_found_count_as_unidentified() -> None:
    found = read_sbom(document(component("n" * 300)))
    assert (found.components, found.unidentified_count) == ((), 1)
