"""How long an adapter takes to make, stage by stage, said before the first stage begins.

A budget in seconds bounds tuning alone. Scores, the first step of verdicts and the baselines come after it, and take longer on few cores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trafficllm.core.types import Planner, ProgressSink, StageTime

if TYPE_CHECKING:
    from trafficllm.core.settings import TuneOptions
    from trafficllm.model.results import Forecast
    from trafficllm.model.tuning.job import TuneData
    from trafficllm.model.tuning.plan import Rates
    from trafficllm.records.catalog import Task
    from trafficllm.records.dataset.dataset import Dataset

BOUNDED = "--max-seconds bounds this stage alone"
"""What is said of the stage that `max_seconds` is for."""


@dataclass(frozen=True, slots=True)
class Making:
    """An adapter to be made on a base folder: the data set and what is tuned on; `background` flows beside it, learnt where the task asks
    an umbrella question; `search_s` of estimated work for each baseline (None: none is trained); `router` tokens that the router learns
    from, 0 where it knows the task; `members` are tuned and scored one after the other."""

    task: Task
    dataset: Dataset
    data: TuneData
    base: Path
    options: TuneOptions
    background: int = 0
    search_s: float | None = None
    router: int = 0
    members: int = 1

    def forecast(self) -> Forecast:
        """What tuning will need."""
        from trafficllm.model.base.load import precision_for
        from trafficllm.model.tuning import plan as planning

        return planning.plan_data(self.base, self.data, self.options, precision=precision_for(self.base))

    def rows(self, part: str) -> int:
        """Rows of a part of the data set."""
        return len(self.dataset.indices(part))


def tell(progress: ProgressSink, making: Callable[[], Making]) -> None:
    """Say what is to come where a sink wants to know; elsewhere nothing is worked out."""
    if isinstance(progress, Planner):
        progress.expect(stages(making()))


def stages(making: Making, tuning: Forecast | None = None) -> list[StageTime]:
    """The stages of `adapter register` from tuning on, by the names that progress has, with their seconds on this machine when idle.

    `tuning` is the forecast of the first where it is known already. Raises ArtifactError where the base is no model.
    """
    from trafficllm.model.base.load import precision_for
    from trafficllm.model.tuning import plan as planning

    tuning = tuning or making.forecast()
    generator = making.task.kind == "generation"
    out = [tune_stage("generation" if generator else "task", tuning, making.options, making.members)]
    if generator:
        return out
    if tuning.readout_seconds:
        out.append(StageTime("readout", making.members * tuning.readout_seconds * tuning.share))
    rates = planning.rates(making.base, tuning.tokens_per_epoch / max(tuning.rows, 1), precision=precision_for(making.base))
    rates = planning.Rates(making.members * rates.row, making.members * rates.fit)
    first_step = [StageTime("umbrella", _umbrella(making, rates))] if making.background and making.task.positive else []
    out += [StageTime("scoring", _scoring(making, rates)), *first_step]
    if making.search_s is not None:
        out.append(StageTime("baselines", _baselines(making, making.search_s)))
    if making.router:
        out.append(StageTime("router", making.router / tuning.tokens_per_second * tuning.share))
    return out


def tune_stage(name: str, tuning: Forecast, options: TuneOptions, members: int = 1) -> StageTime:
    """The stage of tuning, with what its budget bounds: each member has the whole of it."""
    each = f", {members} times" if members > 1 else ""
    return StageTime(f"tune {name}", members * tuning.idle_seconds, f"{BOUNDED}{each}" if options.max_seconds else "")


def _scoring(making: Making, rates: Rates) -> float:
    """States of learning rows, a readout for each fold of captures, and the test part."""
    from trafficllm.lifecycle.calibration import crossfit

    learnt = min(crossfit.LEARNT, making.rows("train")) + min(crossfit.HELD_OUT, making.rows("val"))
    fits = crossfit.FOLDS * learnt * len(making.data.labels) * crossfit.STEPS
    return rates.row * (learnt + making.rows("test")) + rates.fit * fits


def _umbrella(making: Making, rates: Rates) -> float:
    """States of training rows and background, and a readout for each group of sources left out and one for all."""
    from trafficllm.evaluate.umbrella import GROUPS
    from trafficllm.lifecycle.adapters import umbrella

    rows = min(umbrella.LEARNT, making.rows("train")) + making.background
    fits = (GROUPS + 1) * rows * (len(making.data.labels) + 1) * umbrella.STEPS
    return rates.row * (rows + umbrella.HELD_OUT) + rates.fit * fits


def _baselines(making: Making, search_s: float) -> float:
    from trafficllm.lifecycle.studies import scoring

    return scoring.expected_baseline_seconds(making.dataset, budget_s=search_s)
