"""What shapes a record: how flows are cut, how much of each is shown, under which mask profile.

The manifests of data sets and adapters hold it as `record`, in the words of the configuration; serving follows the adapter's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from trafficllm.core.errors import UsageError
from trafficllm.core.settings import CodecOptions, Config, FlowOptions, RecordOptions

KEY = "record"
_MEMORY = frozenset({"table_size"})
"""Flow options that bound memory: a machine's matter, no record's."""


class RecordShape(BaseModel):
    """Sections [capture] and [records] of the configuration that records were made with.

    >>> RecordShape.of({"codec": [8, 96, 96, 384, 128], "profile": "strict"}).records.packets
    8
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    capture: FlowOptions = FlowOptions()
    records: RecordOptions = RecordOptions()

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> RecordShape:
        """The shape that a manifest states; what an older manifest does not state are the defaults."""
        if KEY in manifest:
            return cls.model_validate(manifest[KEY])
        stated: dict[str, Any] = {"profile": manifest["profile"]} if manifest.get("profile") else {}
        if "codec" in manifest:
            packets, orig, resp, text, bursts = manifest["codec"]
            stated |= {"packets": packets, "payload": (orig, resp), "text": text, "bursts": bursts}
        return cls(records=RecordOptions(**stated))

    def as_dict(self) -> dict[str, Any]:
        """The manifest's `record`."""
        return {"capture": self.capture.model_dump(mode="json", exclude=set(_MEMORY)), "records": self.records.model_dump(mode="json")}

    def flows(self, table_size: int) -> FlowOptions:
        """How to cut flows that such records are made of, in a table of this machine's size."""
        return self.capture.model_copy(update={"table_size": table_size})

    def codec(self) -> CodecOptions:
        """How much of a flow such records show."""
        return self.records.codec()

    def differences(self, wanted: Mapping[str, Any]) -> list[str]:
        """Each wanted setting (`section.key`) that differs from the shape, with both values."""
        out = []
        for key, value in sorted(wanted.items()):
            section, name = key.split(".")
            own = getattr(getattr(self, section), name)
            if own != (tuple(value) if isinstance(value, list) else value):
                out.append(f"{key} is {_text(own)}, not {_text(value)}")
        return out

    def require(self, wanted: Mapping[str, Any], *, whose: str, remedy: str) -> None:
        """UsageError that names both values of every wanted setting which differs; `whose` names the data set or adapter."""
        differing = self.differences(wanted)
        if differing:
            raise UsageError("usage.record", f"{whose} was made with other records: {'; '.join(differing)}", input=whose, hint=remedy)


def wanted_of(config: Config, profile: str = "") -> dict[str, Any]:
    """The settings of a record's shape that a configuration file, or the option `--profile`, states itself.

    Defaults are no wish: a file without them follows whatever a data set or an adapter was made with.
    """
    stated = {f"capture.{name}": getattr(config.capture, name) for name in config.capture.model_fields_set - _MEMORY}
    stated |= {f"records.{name}": getattr(config.records, name) for name in config.records.model_fields_set}
    return {**stated, "records.profile": profile} if profile else stated


def _text(value: Any) -> str:
    """A value as TOML writes it.

    >>> _text(True), _text((96, 96)), _text("raw")
    ('true', '[96, 96]', '"raw"')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_text, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)
