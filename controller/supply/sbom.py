"""Software bills of materials in CycloneDX JSON (ECMA-424). Owns their validation and what is read of them.

A document is validated against the strict schema of its version by the CycloneDX project's own validator before
anything of it is read. The validator compares each item of a list with every other, so lists are handed to it in
pieces, and that no item stands twice is checked here by digest.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from controller.supply.documents import BadDocument, read_json
from controller.supply.purls import Package, read_purl

MEDIA_TYPE: Final = "application/vnd.cyclonedx+json"

#: A desktop's whole distribution with its files left out is 3 MiB.
MAX_SBOM_BYTES: Final = 8 * 1024 * 1024

#: Values in one document: fifty for each component of the largest.
MAX_VALUES: Final = 1_000_000

#: Components in one document: every package of a distribution's archive is four times as many.
MAX_COMPONENTS: Final = 20_000

#: Items of one list within a component or another part: the validator's work grows with their square.
MAX_INNER_ITEMS: Final = 500

#: Items handed to the validator at once.
PIECE: Final = 50

#: Versions of the specification that the validator knows in a strict form for JSON and that are in use.
SPEC_VERSIONS: Final = ("1.4", "1.5", "1.6", "1.7")

#: Lists at the top of a document that grow with what it describes.
_LONG_LISTS: Final = ("components", "dependencies", "services", "vulnerabilities", "compositions")

#: Longest name and version of a component that are kept: longer ones count as unidentified.
MAX_NAME_BYTES: Final = 256


class Component(NamedTuple):
    """A component that queries can find: its package, and its version as text."""

    package: Package
    version: str


@dataclass(frozen=True, slots=True)
class Sbom:
    """What is read of a valid document."""

    spec_version: str
    #: Each once, in order.
    components: tuple[Component, ...]
    #: All components, nested ones too.
    component_count: int
    #: Those without a package URL or a version: no query by range finds them.
    unidentified_count: int


def read_sbom(data: bytes) -> Sbom:
    """Validates and reads a document. Raises `BadDocument`. Takes about 0.1 ms a component."""
    document = read_json(data, max_bytes=MAX_SBOM_BYTES, max_values=MAX_VALUES)
    if not isinstance(document, dict) or document.get("bomFormat") != "CycloneDX":
        raise BadDocument(
            "SBOM_NO_CYCLONEDX", 'no CycloneDX document: bomFormat is not "CycloneDX"'
        )
    spec_version = document.get("specVersion")
    if not isinstance(spec_version, str) or spec_version not in SPEC_VERSIONS:
        raise BadDocument(
            "SBOM_VERSION_UNKNOWN",
            f"specVersion {str(spec_version)[:20]!r} is none of {', '.join(SPEC_VERSIONS)}",
        )
    _check_lists(document)
    for piece in _pieces(document):
        _validate(piece, spec_version)
    return _read(document, spec_version)


def _check_lists(document: dict[str, Any]) -> None:
    """Bounds on lists, and that no item of a list stands in it twice."""
    for name in _LONG_LISTS:
        items = document.get(name)
        if isinstance(items, list):
            if len(items) > MAX_COMPONENTS:
                raise BadDocument(
                    "SBOM_TOO_LARGE", f"{name} holds more than {MAX_COMPONENTS} items"
                )
            seen: set[str] = set()
            for item in items:
                spelled = json.dumps(item, sort_keys=True)
                if spelled in seen:
                    raise BadDocument("SBOM_INVALID", f"an item stands twice in {name}")
                seen.add(spelled)
    rest: list[tuple[Any, bool]] = [(document, True)]
    while rest:
        value, is_top = rest.pop()
        if isinstance(value, list):
            if len(value) > MAX_INNER_ITEMS and not is_top:
                raise BadDocument(
                    "SBOM_TOO_LARGE", f"an inner list holds more than {MAX_INNER_ITEMS} items"
                )
            rest.extend((item, False) for item in value if isinstance(item, dict | list))
        else:
            rest.extend(
                (item, is_top and name in _LONG_LISTS)
                for name, item in value.items()
                if isinstance(item, dict | list)
            )


def _pieces(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The document without its long lists, then its head with a part of one each."""
    long = {name: document[name] for name in _LONG_LISTS if isinstance(document.get(name), list)}
    yield {name: value for name, value in document.items() if name not in long}
    head = {"bomFormat": document["bomFormat"], "specVersion": document["specVersion"]}
    for name, items in long.items():
        for at in range(0, len(items), PIECE):
            yield {**head, name: items[at : at + PIECE]}


def _validate(document: dict[str, Any], spec_version: str) -> None:
    found = _validator(spec_version).validate_str(json.dumps(document))
    if found is not None:
        error = getattr(found, "data", found)
        place = "/".join(str(part) for part in getattr(error, "absolute_path", ()))
        message = str(getattr(error, "message", error))[:200]
        raise BadDocument("SBOM_INVALID", f"not valid at {place[:120] or 'the top'}: {message}")


@functools.cache
def _validator(spec_version: str) -> Any:
    # The validator and its schemas are loaded when the first document comes: no start waits for them.
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.from_version(spec_version))


def _read(document: dict[str, Any], spec_version: str) -> Sbom:
    found: dict[Component, None] = {}
    count = unidentified = 0
    rest = list(document.get("components", ()))
    while rest:
        item = rest.pop()
        count += 1
        if count > MAX_COMPONENTS:
            raise BadDocument("SBOM_TOO_LARGE", f"more than {MAX_COMPONENTS} components")
        component = _component(item)
        if component is None:
            unidentified += 1
        else:
            found[component] = None
        rest.extend(item.get("components", ()))
    return Sbom(spec_version, tuple(sorted(found)), count, unidentified)


def _component(item: dict[str, Any]) -> Component | None:
    purl = read_purl(item.get("purl", ""))
    if purl is None:
        return None
    version = purl.version or item.get("version", "")
    names = (*purl.package, version)
    if not version or any(len(name.encode()) > MAX_NAME_BYTES for name in names):
        return None
    return Component(purl.package, version)
