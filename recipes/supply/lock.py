"""Lock files from constraints.txt: `python recipes/supply/lock.py --uv UV`; every release with the SHA-256 of each of its files.

requirements.lock holds what the program needs and what builds it, requirements-test.lock the rest. torch is in neither: which build
of it (CPU, CUDA) fits a machine is the package index's to say. The hashes are those of all files that the index lists for a
release, so one lock serves every platform that has wheels. `uv` is not needed to install from the locks, only to write them.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
APART = frozenset({"torch"})
BUILDS = ("hatchling", "editables")
_LINE = "# Written by recipes/supply/lock.py from constraints.txt; install with pip --require-hashes --no-deps.\n"


def plain(name: str) -> str:
    """A package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(names: list[str]) -> set[str]:
    """Packages that these need without extras, as installed here, torch and what only it needs aside."""
    seen: set[str] = set()
    waiting = [plain(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in seen or name in APART:
            continue
        seen.add(name)
        for text in metadata.requires(name) or ():
            need = Requirement(text)
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                waiting.append(plain(need.name))
    return seen


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uv", default="uv", help="the uv program")
    args = parser.parse_args()
    lines = [line.strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pins = {plain(line.partition("==")[0]): line for line in lines if line and not line.startswith("#")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needs = [Requirement(text).name for text in project["dependencies"]]
    torch = [Requirement(text).name for text in metadata.requires("torch") or () if ";" not in text]
    own = closure([*needs, *torch, *BUILDS]) & set(pins)
    for name, wanted in (("requirements.lock", own), ("requirements-test.lock", set(pins) - own - APART)):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
            listed.write("".join(pins[package] + "\n" for package in sorted(wanted)))
            listed.flush()
            command = [args.uv, "pip", "compile", "--no-deps", "--generate-hashes", "--no-annotate", "--no-header", "--quiet"]
            made = subprocess.run([*command, "--python-version", "3.11", listed.name], capture_output=True, text=True, check=True)
        (ROOT / name).write_text(_LINE + made.stdout)


if __name__ == "__main__":
    main()
