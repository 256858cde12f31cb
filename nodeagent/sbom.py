"""The host's software bill of materials: what is installed, as CycloneDX JSON (ECMA-424).

Owns how packages are spelled as components. The document says nothing of the node itself and bears no time, so that
hosts with the same packages have the same document, and it is sent and kept once.
"""

from __future__ import annotations

from packageurl import PackageURL

from nodeagent.canonical_json import Json, canonical_json
from nodeagent.packages import DebianPackage, LargeValue, Packages, PythonPackage, cut
from souverix.fleet.v1 import observation_pb2

VALUE_NAME = "sbom"
MEDIA_TYPE = "application/vnd.cyclonedx+json"
SPEC_VERSION = "1.6"

MAX_SBOM_BYTES = 8 * 1024 * 1024
"""Largest document a controller reads."""

SOURCE_PROPERTY = "souverix:debian:source"
"""Names the source package of a Debian package, where that has another name."""


def sbom_value(packages: Packages, os: observation_pb2.OperatingSystem) -> LargeValue | None:
    """The SBOM as a large value. None when it is unreasonably large."""
    components: dict[str, Json] = {}
    for package in packages.debian:
        component = _debian(package, os)
        components.setdefault(str(component["bom-ref"]), component)
    for distribution in packages.python:
        component = _python(distribution)
        components.setdefault(str(component["bom-ref"]), component)
    document: Json = {
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "version": 1,
        "metadata": {"component": _host(os)},
        "components": list(components.values()),
    }
    content = canonical_json(document)
    return cut(content, VALUE_NAME, MEDIA_TYPE) if len(content) <= MAX_SBOM_BYTES else None


def _host(os: observation_pb2.OperatingSystem) -> Json:
    host: dict[str, Json] = {
        "type": "operating-system",
        "bom-ref": "host",
        "name": os.name or os.id or "unknown",
    }
    if os.version:
        host["version"] = os.version
    return host


def _debian(package: DebianPackage, os: observation_pb2.OperatingSystem) -> dict[str, Json]:
    qualifiers = {"arch": package.architecture} if package.architecture else {}
    purl = PackageURL(
        "deb", os.id or "debian", package.name, package.version, qualifiers
    ).to_string()
    component: dict[str, Json] = {
        "type": "library",
        "bom-ref": purl,
        "name": package.name,
        "version": package.version,
        "purl": purl,
    }
    if package.source:
        component["properties"] = [{"name": SOURCE_PROPERTY, "value": package.source}]
    return component


def _python(distribution: PythonPackage) -> dict[str, Json]:
    purl = PackageURL("pypi", None, distribution.name, distribution.version).to_string()
    return {
        "type": "library",
        "bom-ref": purl,
        "name": distribution.name,
        "version": distribution.version,
        "purl": purl,
    }
