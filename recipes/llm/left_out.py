"""Sources left out: the umbrella question of a study of `recipes/results/openworld.toml`, answered by a linear probe of each arm's states.

Which flows are learnt from and judged, how sources are left out and what is reported are those of `evaluate openworld`; only fewer flows
of a source take part (comparison.toml, `[sources]`). Trees learn from the same flows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comparison as compared
import numpy as np
import numpy.typing as npt

from trafficllm.core.files import read_json, write_json
from trafficllm.core.types import F64, I64, Silent
from trafficllm.evaluate.baselines.frozen import Scale
from trafficllm.model.adapter.readout import STRENGTH

if TYPE_CHECKING:
    from trafficllm.evaluate.baselines.learners import Part
    from trafficllm.evaluate.by_source.figures import Tables
    from trafficllm.evaluate.by_source.folds import Judged
    from trafficllm.evaluate.openworld import Learner
    from trafficllm.lifecycle.studies.openworld_rows import OpenData

MEASURES = {"auroc": "AUROC", "recall_at_fpr_01": "found at 1 % false alarms"}
OURS = "language"


@dataclass(frozen=True, slots=True)
class Probe:
    """The readout of `evaluate openworld` on an arm's states, fitted in the space that its training rows span: the same model, sooner."""

    vectors: npt.NDArray[np.float32]
    name: str = "probe"

    def features(self, rows: Part) -> F64:
        """The states of all flows, as they are. ValueError where they are of other flows."""
        if len(rows.records) != len(self.vectors):
            raise ValueError(f"states of {len(self.vectors)} flows for {len(rows.records)}: remove them")
        return np.asarray(self.vectors, dtype=np.float64)

    def fit_score(self, train: F64, positive: I64, weights: F64, judged: F64) -> F64:
        """Log-odds of the positive side."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        scale = Scale.of(train.astype(np.float32))
        rows, asked = scale(train), scale(judged)
        if rows.shape[1] > len(rows):
            value, axes = np.linalg.eigh(rows @ rows.T)
            held = value > value[-1] * 1e-10
            turn = rows.T @ (axes[:, held] / np.sqrt(value[held]))
            rows, asked = rows @ turn, asked @ turn
        # Two columns of weights under one penalty, as the readout has them, are one column under half of it.
        model = LogisticRegression(C=2 * STRENGTH, max_iter=300)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(rows, positive, sample_weight=weights)
        return np.asarray(model.decision_function(asked), dtype=np.float64)


def opened(comparison: compared.Comparison, name: str) -> OpenData:
    """The flows of a study, a few of every source."""
    import openworld

    from trafficllm.lifecycle.studies.openworld_rows import RowOptions, open_data
    from trafficllm.lifecycle.workspace import Workspace

    plan, entry = compared.PLAN["sources"], openworld.STUDIES[name]
    table = openworld.Table(comparison.data, comparison.out, comparison.profile)
    tasks = [openworld.HERE / "openworld_vpn.toml"]
    workspace = Workspace(base="default", registry=str(comparison.out / "registry"), extra_tasks=tasks)
    return open_data(
        workspace,
        [table.folder(folder, entry.get("without", ())) for folder in entry["data"]],
        [comparison.data / folder for folder in (*openworld.PLAN["everyday"], *entry["background"])],
        comparison.out / "data" / comparison.profile / f"open-{name}",
        task=entry.get("task", ""),
        profile=comparison.profile,
        options=RowOptions(per_capture=plan["per_capture"], per_source=plan["per_source"], most=plan["most"]),
        progress=Silent(),
    )


def judged_by(data: OpenData, learner: Callable[[], Learner], path: Path) -> Judged:
    """What a learner says of every source that it has not learnt, kept in `path`; it is made only where that is not there."""
    from trafficllm.evaluate.by_source.folds import Judged, leave_out, scoring_of

    if not path.is_file():
        done = leave_out(data.rows, scoring_of(learner(), data.rows), folds=compared.PLAN["sources"]["folds"])
        columns = {"rows": done.rows.tolist(), "score": done.score.tolist(), "verdict": done.verdict.tolist()}
        write_json(path, {**columns, "skipped": done.skipped, "key": data.key})
    body = read_json(path)
    if body["key"] != data.key:
        raise ValueError(f"{path} is of other flows: remove it")
    rows, verdict = (np.array(body[key], dtype=np.int64) for key in ("rows", "verdict"))
    return Judged(rows, np.array(body["score"]), verdict, (), body["skipped"])


def study(comparison: compared.Comparison, name: str, arms: Sequence[str]) -> None:
    """Figures of every arm and of trees, one file an arm, and the study's file with all that are there."""
    import openworld

    from trafficllm.evaluate.by_source import figures as by_source
    from trafficllm.evaluate.by_source.learners import Booster, Forest

    data = opened(comparison, name)
    every: dict[str, Callable[[], Learner]] = {arm: partial(_probe, comparison, arm, name, data) for arm in arms}
    every |= {tree: {"lightgbm": Booster, "random_forest": Forest}[tree] for tree in compared.PLAN["sources"]["trees"]}
    runs: dict[str, Tables] = {}
    figures: dict[str, Any] = {}
    for arm, learner in every.items():
        judged = judged_by(data, learner, comparison.file("answers-of-sources", name, arm))
        runs[arm] = by_source.Tables.of(data.rows, judged)
        whole = by_source.scores([runs[arm]], [judged])
        figures[arm] = {key: [getattr(whole.mean, key), *whole.ci95[key]] for key in MEASURES}
        print(name, arm, {key: round(figures[arm][key][0], 4) for key in MEASURES}, flush=True)
    others = [arm for arm in runs if arm != OURS and OURS in runs]
    less = {arm: {row.figure: [row.difference, *row.ci95] for row in by_source.gains([runs[OURS]], {arm: [runs[arm]]})} for arm in others}
    body = {
        "title": openworld.STUDIES[name]["title"],
        **_facts(comparison.profile, data, runs[arms[0]]),
        "measures": MEASURES,
        "arms": figures,
        "language_less": {arm: {key: row[key] for key in MEASURES} for arm, row in less.items()},
    }
    write_json(comparison.file("sources", name), body)


def _facts(profile: str, data: OpenData, one: Tables) -> dict[str, Any]:
    """What was judged, in numbers and in a sentence."""
    sources = {"harmless": len(one.benign.names), "malicious": len(one.malicious.names)}
    flows = {"learnt": len(data.rows.learnt), "judged": len(data.rows.judged), "contents": len(set(data.content))}
    groups, (learnt, judged, contents) = compared.PLAN["sources"]["folds"], flows.values()
    says = (
        f"Linear probe of frozen states, masks {profile}; {sources['harmless']} harmless and {sources['malicious']} malicious sources left "
        f"out in {groups} groups, {learnt} flows learnt from and {judged} judged, none of them reserved, {contents} masked contents in "
        "all. A source counts once; in brackets the 95 % interval over sources."
    )
    return {"says": says, "sources": sources, "flows": flows}


def _probe(comparison: compared.Comparison, arm: str, name: str, data: OpenData) -> Probe:
    """The probe on an arm's pooled states of all flows, equal contents read once."""
    place = comparison.file("states", name, arm, suffix="")
    if not place.is_dir():
        prompted = compared.Prompted(comparison.base(arm), data.tasks[0], data.codec)
        compared.compute(prompted, list(data.content), data.rows.part.records, place)
    return Probe(np.load(place / "vectors.npy")[np.load(place / "at.npy")], arm)
