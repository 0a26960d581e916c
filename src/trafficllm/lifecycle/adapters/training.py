"""Where and how an adapter is made: what every kind of adapter needs to be trained and registered."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trafficllm.core.settings import TuneOptions
from trafficllm.core.types import ProgressSink, Silent

if TYPE_CHECKING:
    from trafficllm.model.base.load import Base
    from trafficllm.registry.store import Registry


@dataclass(frozen=True, slots=True)
class Training:
    """Where and how an adapter is made: the base, the registry it goes to, the tuner's options.

    `workdir` keeps adapter and checkpoints, so that the same call again resumes. `search_s` bounds each baseline's search in estimated
    seconds (None: the command's own bound); without `baselines` none is trained. `false_positives` is the rate that harmless flows of
    left-out sources may have; `members` adapters are tuned from seeds one after the other, and answer together.
    """

    base: Base
    registry: Registry
    workdir: Path
    options: TuneOptions = field(default_factory=TuneOptions)
    progress: ProgressSink = field(default_factory=Silent)
    baselines: bool = True
    search_s: float | None = None
    false_positives: float = 0.01
    members: int = 1

    @property
    def seed(self) -> int:
        """The seed of data set, tuning and intervals."""
        return self.options.seed
