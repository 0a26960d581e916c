"""What a release is made with, as CycloneDX 1.6 JSON: `python recipes/supply/sbom.py -o dist/trafficllm.cdx.json`.

Components are the packages of requirements.lock, with the hashes that it allows and the licences that the installed ones declare,
and torch, whose build is the package index's to say. Same lock, same bytes: no time stamp, and a serial number made from the content.
"""

from __future__ import annotations

import argparse
import re
import uuid
from importlib import metadata
from pathlib import Path
from typing import Any

from trafficllm import __version__
from trafficllm.core.files import json_text

ROOT = Path(__file__).resolve().parents[2]
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)


def locked(text: str) -> dict[str, tuple[str, list[str]]]:
    """Package -> (version, SHA-256 of its files) of a lock file."""
    out = {}
    for block in re.split(r"\n(?=[A-Za-z0-9])", text):
        if match := _PIN.match(block):
            out[match[1]] = (match[2], re.findall(r"--hash=sha256:([0-9a-f]{64})", block))
    return out


def licences(name: str) -> list[dict[str, Any]]:
    """What an installed package says its licence is; nothing where it is not installed."""
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return []
    expression = about.get("License-Expression")
    if expression:
        return [{"expression": expression}]
    said = [line.rpartition(" :: ")[2] for line in about.get_all("Classifier") or () if line.startswith("License :: ")]
    return [{"license": {"name": text}} for text in said]


def component(name: str, version: str, hashes: list[str]) -> dict[str, Any]:
    """One package; a release has several files, so its hashes are properties rather than `hashes` of one of them."""
    url = f"pkg:pypi/{name}@{version}"
    found: dict[str, Any] = {"type": "library", "bom-ref": url, "name": name, "version": version, "purl": url}
    if said := licences(name):
        found["licenses"] = said
    if hashes:
        found["properties"] = [{"name": "trafficllm:file:sha256", "value": value} for value in sorted(hashes)]
    return found


def bom(lock: str, constraints: str) -> dict[str, Any]:
    """The bill of materials of the program."""
    pins = locked(lock)
    if torch := re.search(r"^torch==(\S+)", constraints, re.MULTILINE):
        pins["torch"] = (torch[1], [])
    own = f"pkg:pypi/trafficllm@{__version__}"
    parts = [component(name, version, hashes) for name, (version, hashes) in sorted(pins.items())]
    about = {"type": "application", "bom-ref": own, "name": "trafficllm", "version": __version__, "purl": own}
    body = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {**about, "licenses": [{"license": {"id": "Apache-2.0"}}]}},
        "components": parts,
        "dependencies": [{"ref": own, "dependsOn": [part["bom-ref"] for part in parts]}],
    }
    return {**body, "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json_text(body))}"}


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True)
    args = parser.parse_args()
    made = bom((ROOT / "requirements.lock").read_text(), (ROOT / "constraints.txt").read_text())
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json_text(made), encoding="utf-8")


if __name__ == "__main__":
    main()
