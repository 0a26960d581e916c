"""`adapter update`: new captures for a live task, also of new classes, learnt on top of the live version.

Live weights -> tuning on new records and a replayed sample of the old -> gate against the live version -> registry. Neither
old captures nor the data set that the live version was made from are needed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import InputError
from trafficllm.core.files import read_json
from trafficllm.core.types import ProgressSink
from trafficllm.lifecycle.adapters import gate, learn, replay
from trafficllm.lifecycle.studies import cascade, scoring

if TYPE_CHECKING:
    from trafficllm.core.settings import TuneOptions
    from trafficllm.core.types import Scores
    from trafficllm.infer.engine.scorer import LLMScorer
    from trafficllm.model.base.load import Base
    from trafficllm.records.catalog import Task
    from trafficllm.registry.store import Registry
    from trafficllm.registry.versions import Version

SEARCH_SECONDS = 30.0
"""Estimated search time of each baseline: the sample and the new records are few, and an update should stay cheap."""


SHARE, LEAST_STEPS = 0.2, 60
"""Optimizer steps of an update as a share of the last full training's, and the fewest: with the scoring an update then takes less than
30 % of training again."""
READOUT = 1500
"""Rows that an update's readout is fitted on: the sample and the new records are few, and fitting it should not cost more than tuning."""
BANK = 300
"""Training rows scored for the update's calibration, see scoring.calibrate."""


def update(
    folder: str | Path,
    *,
    task: Task,
    base: Base,
    registry: Registry,
    workdir: str | Path,
    options: TuneOptions,
    baselines: bool = True,
    search_s: float = SEARCH_SECONDS,
    progress: ProgressSink,
) -> dict[str, Any]:
    """Learn new captures or a data set into the live version; returns the keys of `adapter update --json`.

    `status` says what became of it: live, candidate (too few records to tell) or rejected, and `why`; what is rejected gets
    no baselines. `workdir` keeps adapter and checkpoints, so that the same call again resumes. Raises ArtifactError where there is no live
    version, it does not fit the base, or it keeps no sample; InputError for data that cannot be learnt from.
    """
    from trafficllm.model.tuning import job as tune

    start, place = time.monotonic(), Path(workdir)
    live = registry.live(task.id)
    definition = _checked(live, task, base)
    kept = replay.read(live)
    data = _data(Path(folder), live, kept, definition, seed=options.seed, progress=progress)
    settings = short(same_shape(options, live), live)
    # So few steps see each record about once: changed copies of it would teach less than the record.
    asked = learn.tune_data(data, augment=False, task=definition)
    tuned = tune.tune_task(base, asked, place, settings, progress, start_from=live.path)
    manifest = learn.manifest_of(data, definition, base, tuned, settings)
    judged, scores, said = _judged(data, kept, live, definition, base=base, adapter=place, seed=settings.seed, progress=progress)
    manifest |= judged
    manifest |= _history(live, data, kept, said, folder=place)
    status = manifest["decision"]["status"]
    if baselines and status != "rejected":
        progress.update("baselines", 0, None)
        rate = manifest["cost"]["flows_per_second"]
        manifest |= cascade.beside(data, base, scores, rate, seed=settings.seed, budget_s=search_s).as_dict()
    current = registry.find_live(task.id)
    if status == "live" and (current is None or current.version != live.version):
        status = manifest["decision"]["status"] = "candidate"
        manifest["decision"]["why"] = f"{live.version} is live no more: another process changed it meanwhile"
    version = registry.register(task.id, place, manifest, status=status)
    facts = {key: manifest[key] for key in ("gate", "transfer", "added_labels", "replayed", "parent_seconds")}
    body = {**learn.answer_of(manifest, tuned), **version.as_dict(), **facts, "path": str(version.path)}
    seconds = round(time.monotonic() - start, 2)
    return {**body, "why": manifest["decision"]["why"], "dropped": data.manifest["dropped"], "seconds": seconds}


def _checked(live: Version, task: Task, base: Base) -> Task:
    """The task as the live version learnt it: its prompt must stay the same."""
    from trafficllm.records.catalog import Task
    from trafficllm.records.codec.units import codec_hash
    from trafficllm.registry import fit

    fit.check(live.manifest, base.manifest, codec_hash())
    if task.kind != "detection":
        raise InputError(
            "input.task",
            f"task {task.id} gives no verdicts, so no gate can judge an update",
            input=task.id,
            hint="register it again from all its captures",
        )
    return Task.model_validate(live.manifest.get("task_definition", task.model_dump()))


def _data(folder: Path, live: Version, kept: replay.Rows, task: Task, *, seed: int, progress: ProgressSink) -> replay.Kept:
    view = replay.View.of(live.manifest)
    chores = task.housekeeping or "housekeeping" in live.manifest.get("kept_fields", ())
    found, unit = replay.fresh(folder, view, task, chores=chores, seed=seed, progress=progress)
    new, leaks = replay.without_leaks(kept, found)
    data = replay.joined(kept, replay.fewer(new), live, unit=unit, leaks=leaks)
    if "train" not in data.table["part"].to_pylist()[len(kept) :]:
        raise InputError(
            "input.no_train",
            "nothing new to learn: no record is left for training that the kept sample does not hold elsewhere",
            input=str(folder),
            hint="add captures: each label needs enough groups for training, validation and test",
        )
    return data


def same_shape(options: TuneOptions, live: Version) -> TuneOptions:
    """The options with the live adapter's method, rank and scale: weights can only go on in an adapter of their shape."""
    from trafficllm.model.adapter.guard import CONFIG

    config = read_json(live.path / CONFIG)
    method = "rslora" if config.get("use_rslora") else "dora" if config.get("use_dora") else "lora"
    return options.model_copy(update={"method": method, "r": config["r"], "lora_alpha": config["lora_alpha"]})


def short(options: TuneOptions, live: Version) -> TuneOptions:
    """The options with an update's steps: a share of what the task's last full training took, unless steps or seconds are asked for.

    Validation is not looked at meanwhile, so that it is held out for the gate.
    """
    full = int(live.manifest.get("full_steps") or (live.manifest.get("tuning") or {}).get("steps") or 0)
    asked = not full or options.max_steps is not None or options.max_seconds is not None
    steps = {} if asked else {"max_steps": max(LEAST_STEPS, round(full * SHARE))}
    return options.model_copy(update={"looks": 0, "readout": min(options.readout, READOUT), **steps})


def _judged(
    data: replay.Kept, kept: replay.Rows, live: Version, task: Task, *, base: Base, adapter: Path, seed: int, progress: ProgressSink
) -> tuple[dict[str, Any], Scores, dict[int, str]]:
    """Calibration, quality and gate of the new weights, the live ones beside them on the same held-out rows (validation and test: neither
    chose the new weights); the new ones' test scores, and their answers to all held-out rows."""
    from trafficllm.infer.engine.engine import Engine
    from trafficllm.infer.engine.scorer import WEIGHT, LLMScorer

    progress.update("gate", 0, None)
    engine = Engine(base)
    engine.add_adapter("before", live.path)
    engine.add_adapter("after", adapter)
    labels = scoring.labels_of(data)
    share = {key: value for key, value in (live.manifest.get("calibration") or {}).items() if key == WEIGHT}
    after = LLMScorer(engine, "after", task, labels, share, codec=data.codec)
    before = LLMScorer(engine, "before", task, live.manifest["labels"], share, codec=data.codec)
    (val, y_val), (test, y_test) = (scoring.rows(data, part, labels) for part in ("val", "test"))
    looked = scoring.score_rows(after, data, val)
    after.calibration = scoring.calibrate(after, data, seed=seed, bank=BANK, scores=looked)
    start = time.monotonic()
    scores = scoring.score_rows(after, data, test)
    spent = max(time.monotonic() - start, 1e-9)
    said = learn.named(val, looked) | learn.named(test, scores)
    past = _past(before, data, kept, list(said))
    truth, groups = dict(zip(said, [*y_val, *y_test], strict=True)), dict(zip(said, data.groups(list(said)), strict=True))

    def side(rows: Sequence[int]) -> gate.Side:
        picked = ([column[i] for i in rows] for column in (truth, past, said, groups))
        return gate.compare(labels, gate.Answers(*picked), seed=seed)

    old = side([i for i in said if i < len(kept)])
    fresh = [i for i in said if i >= len(kept)]
    new = side(fresh)
    status, why = gate.decide(old, new)
    guess = [said[i] for i in test]
    quality = scoring.quality_of(data, base, guess, labels=labels, probabilities=scores.probabilities, seed=seed)
    forward = new.before - _majority([truth[i] for i in fresh])
    return (
        {
            "calibration": after.calibration,
            "quality": quality.as_dict(),
            "cost": _cost(after, scores, spent),
            "gate": {"old": old.as_dict(), "new": new.as_dict(), "router": None},
            "transfer": {"backward": round(old.gain, 6), "forward": round(forward, 6)},
            "decision": {"status": status, "why": why},
        },
        scores,
        said,
    )


def _past(before: LLMScorer, data: replay.Kept, kept: replay.Rows, rows: Sequence[int]) -> dict[int, str]:
    """The live version's answers to held-out rows: those it kept with its sample, and to the rest what it says now."""
    said = {i: kept.answers[i] for i in rows if i < len(kept) and kept.answers[i]}
    rest = [i for i in rows if i not in said]
    return said | learn.named(rest, scoring.score_rows(before, data, rest))


def _cost(scorer: LLMScorer, scores: Scores, spent: float) -> dict[str, float]:
    from trafficllm.infer import calibration as cal

    strange = cal.unknown_score(scorer.calibration, scores) > cal.threshold(scorer.calibration)
    rate = round(len(strange) / spent, 1)
    return {"flows_per_second": rate, "seconds": round(spent, 2), "unknown_share": float(strange.mean())}


def _majority(truth: Sequence[str]) -> float:
    """Macro-F1 of always naming the commonest label: what forward transfer is measured from."""
    if not truth:
        return 0.0
    counts = Counter(truth)
    most = max(counts.values())
    return 2 * most / (most + len(truth)) / len(counts)


def _history(live: Version, data: replay.Kept, kept: replay.Rows, answers: dict[int, str], *, folder: Path) -> dict[str, Any]:
    """What the version says of where it came from, and the sample that the next update replays."""
    past = set(live.manifest["labels"])
    return {
        "parent": live.version,
        "parent_seconds": float((live.manifest.get("tuning") or {}).get("seconds", 0.0)),
        "added_labels": [label for label in data.labels if label not in past],
        "replayed": list(kept.parts).count("train"),
        "replayed_sha256": live.manifest["sample"]["sha256"],
        "full_steps": live.manifest.get("full_steps") or (live.manifest.get("tuning") or {}).get("steps"),
        "sample": replay.keep(data, folder, answers),
    }
