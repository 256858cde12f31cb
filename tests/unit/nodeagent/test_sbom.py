from __future__ import annotations

import json
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from nodeagent import sbom
from nodeagent.linux_host import LinuxHost
from nodeagent.packages import DebianPackage, LargeValue, Packages, PythonPackage
from nodeagent.sbom import sbom_value
from souverix.fleet.v1 import observation_pb2

DEBIAN = observation_pb2.OperatingSystem(
    id="debian", name="Debian GNU/Linux", version="12 (bookworm)"
)


def content_of(value: LargeValue | None) -> str:
    assert value is not None
    chunks = [chunk.digest for chunk in value.reference.chunks] or [value.reference.digest]
    return b"".join(value.chunks[digest] for digest in chunks).decode()


def document_of(value: LargeValue | None) -> Any:
    return json.loads(content_of(value))


def test_packages_are_components_with_package_urls() -> None:
    packages = Packages(
        (DebianPackage("libssl3", "amd64", "3.0.11-1~deb12u2", "openssl"),),
        (PythonPackage("Foo_Bar", "1.0"),),
    )

    document = document_of(sbom_value(packages, DEBIAN))

    libssl, foo = document["components"]
    assert libssl["purl"] == "pkg:deb/debian/libssl3@3.0.11-1~deb12u2?arch=amd64"
    assert libssl["properties"] == [{"name": "souverix:debian:source", "value": "openssl"}]
    assert foo["purl"] == "pkg:pypi/foo-bar@1.0"
    assert document["metadata"]["component"]["name"] == "Debian GNU/Linux"


def test_this_hosts_own_sbom_is_valid_to_the_letter() -> None:
    host = LinuxHost()
    value = sbom_value(host.packages(), host.inventory().os)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(content_of(value)) is None
    assert value is not None
    assert (value.reference.name, value.reference.media_type) == (
        "sbom",
        "application/vnd.cyclonedx+json",
    )


def test_hosts_with_the_same_packages_have_the_same_document() -> None:
    packages = Packages((DebianPackage("bash", "amd64", "5.2"),))
    one, other = sbom_value(packages, DEBIAN), sbom_value(packages, DEBIAN)
    assert one == other


def test_distributions_whose_names_are_the_same_stand_once() -> None:
    packages = Packages((), (PythonPackage("Foo.Bar", "1"), PythonPackage("foo-bar", "1")))
    refs = [c["bom-ref"] for c in document_of(sbom_value(packages, DEBIAN))["components"]]
    assert len(refs) == len(set(refs))


def test_unreasonably_large_sbom_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sbom, "MAX_SBOM_BYTES", 10)
    assert sbom_value(Packages((DebianPackage("bash", "amd64", "5"),)), DEBIAN) is None
