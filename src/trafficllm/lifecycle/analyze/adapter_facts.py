"""What an event says of the adapter behind a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trafficllm.core.umbrella import AlertPoint, Umbrella


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What a reader of an event must know of the adapter behind it: `model` is its base, `masks` the profile its flows were masked under
    and the fields hidden beyond it, `calibrated` whether its probabilities were fitted on validation flows; `alert` its operating point
    of measured precision, None where it has none."""

    model: str = ""
    model_sha256: str = ""
    masks: tuple[str, ...] = ()
    calibrated: bool = False
    alert: AlertPoint | None = None

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> AdapterFacts:
        """Those of an adapter version's manifest."""
        calibration = manifest.get("calibration") or {}
        step = Umbrella.of(calibration)
        return cls(
            str(manifest.get("base", "")),
            str(manifest.get("base_sha256", "")),
            (str(manifest.get("profile", "")), *map(str, manifest.get("also", ()))),
            "temperature" in calibration,
            step.alert if step is not None else None,
        )
