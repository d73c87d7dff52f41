"""Lists all that is in the image, as CycloneDX JSON: Python's packages, and the system's where dpkg knows them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from leasehold import __version__

if TYPE_CHECKING:
    from hack.image.build import Engine

# Runs inside the image, which has neither a shell nor dpkg.
_LOOK: Final = """
import glob, importlib.metadata, json, pathlib
files = [*glob.glob("/var/lib/dpkg/status"), *glob.glob("/var/lib/dpkg/status.d/*")]
print(json.dumps({
    "python": sorted({(d.metadata["Name"], d.version) for d in importlib.metadata.distributions()}),
    "release": pathlib.Path("/etc/os-release").read_text() if pathlib.Path("/etc/os-release").exists() else "",
    "dpkg": [pathlib.Path(f).read_text(errors="replace") for f in files if not f.endswith(".md5sums")],
}))
"""


def write(on: Engine, image: str, path: Path) -> None:
    """Look into an image and write what is there. Raises CalledProcessError."""
    from hack.image.build import run

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document(json.loads(run(on, image, program=("python3", "-P", "-c", _LOOK)))))


def document(found: Mapping[str, Any]) -> str:
    """Return the list for what was found: the same findings give the same components, in the same order."""
    bom = Bom()
    bom.metadata.component = Component(
        name="leasehold", version=__version__, type=ComponentType.CONTAINER, bom_ref="leasehold"
    )
    for component in (*_python(found["python"]), *_system(found["dpkg"], found["release"])):
        bom.components.add(component)
    bom.register_dependency(bom.metadata.component, bom.components)
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2) + "\n"


def _python(packages: list[tuple[str, str]]) -> Iterator[Component]:
    for name, version in packages:
        purl = PackageURL(type="pypi", name=re.sub(r"[-_.]+", "-", name).lower(), version=version)
        yield Component(
            name=name, version=version, type=ComponentType.LIBRARY, purl=purl, bom_ref=purl.to_string()
        )


def _system(statuses: list[str], release: str) -> Iterator[Component]:
    known = dict(re.findall(r'^([A-Z_]+)="?([^"\n]*)"?$', release, re.MULTILINE))
    vendor = known.get("ID", "debian")
    for text in statuses:
        for stanza in text.split("\n\n"):
            fields = dict(re.findall(r"^(Package|Version|Architecture): (.+)$", stanza, re.MULTILINE))
            if {"Package", "Version"} <= fields.keys():
                qualifiers = {"arch": fields.get("Architecture", "all")}
                if "VERSION_ID" in known:
                    qualifiers["distro"] = f"{vendor}-{known['VERSION_ID']}"
                purl = PackageURL("deb", vendor, fields["Package"], fields["Version"], qualifiers)
                yield Component(
                    name=fields["Package"],
                    version=fields["Version"],
                    type=ComponentType.LIBRARY,
                    purl=purl,
                    bom_ref=purl.to_string(),
                )
