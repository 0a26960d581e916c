"""`adapter update`: new captures for a live task, also of new classes, learnt on top of the live version.

With new labels: live weights -> tuning on new records and a replayed sample of the old -> gate against the live version -> registry. With
known labels alone the weights stay, and the readouts are corrected (`calibration.renewed`). Neither old captures nor the data set that the
live version was made from are needed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import InputError
from trafficllm.core.files import read_json
from trafficllm.core.types import ProgressSink
from trafficllm.lifecycle.adapters import gate, learn, replay, umbrella
from trafficllm.lifecycle.adapters.background import NOTHING, Beside, read_for
from trafficllm.lifecycle.adapters.results import AdapterUpdate, Gate
from trafficllm.lifecycle.bases import forecast
from trafficllm.lifecycle.calibration import crossfit, renewed
from trafficllm.lifecycle.members import tuned
from trafficllm.lifecycle.studies import scoring
from trafficllm.records.coverage import Coverage, background_rows
from trafficllm.registry import members

if TYPE_CHECKING:
    from trafficllm.core.settings import TuneOptions
    from trafficllm.core.types import Scores
    from trafficllm.infer.engine.scorer import LLMScorer
    from trafficllm.lifecycle.adapters.training import Training
    from trafficllm.model.adapter.readout import Readout
    from trafficllm.model.base.load import Base
    from trafficllm.records.catalog import Task
    from trafficllm.records.dataset.dataset import Dataset
    from trafficllm.records.sources.background import Background
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


def update(folder: str | Path, training: Training, *, task: Task, background: Beside = NOTHING) -> AdapterUpdate:
    """Learn new captures or a data set into the live version, into each of its members (contract: `adapter update`).

    `background` is what is learnt beside the labels.
    `status` says what became of it: live, candidate (too few records to tell) or rejected, and `why`; what is rejected gets
    no baselines. Raises ArtifactError where there is no live version, it does not fit the base, or it keeps no sample; InputError for
    data that cannot be learnt from.
    """
    start, place, base, registry = time.monotonic(), training.workdir, training.base, training.registry
    live = registry.live(task.id)
    definition = _checked(live, task, base)
    old = replay.read(live)
    data, coverage = _data(Path(folder), live, old, definition, seed=training.seed, progress=training.progress)
    beside = read_for(*_labelled(Path(folder), data), background, progress=training.progress)
    coverage = coverage.merged(Coverage.of(background_rows(beside) if beside else (), sides=coverage.sides))
    options = short(same_shape(training.options, live), live)
    # So few steps see each record about once: changed copies of it would teach less than the record.
    examples = learn.tune_data(data, augment=False, task=definition)
    search_s = SEARCH_SECONDS if training.search_s is None else training.search_s
    flows = len(beside) if beside is not None else 0
    folders = members.folders(live.path)
    corrects = _corrects(live, data)
    if corrects:
        made = tuned.taken([live.path], base, live.manifest["labels"], place)
    else:
        forecast.tell(
            training.progress, lambda: forecast.Making(definition, data, examples, base.path, options, flows, search_s, 0, len(folders))
        )
        made = tuned.tuned(replace(training, options=options), examples, folders)
    report = made[0].report
    manifest = learn.manifest_of(data, definition, base, report, options) | learn.background_facts(beside, coverage)
    same = {key: live.manifest[key] for key in ("members",) if key in live.manifest}
    manifest |= same if corrects else tuned.facts(made)
    figures, scores, predicted = _judged(data, old, live, definition, training, background=beside, coverage=coverage)
    manifest |= figures
    manifest |= _history(live, data, old, predicted, folder=place)
    status = manifest["decision"]["status"]
    if training.baselines and status != "rejected":
        manifest |= learn.baseline_rows(data, training, scores, manifest["cost"]["flows_per_second"], search_s)
    current = registry.find_live(task.id)
    if status == "live" and (current is None or current.version != live.version):
        status = manifest["decision"]["status"] = "candidate"
        manifest["decision"]["why"] = f"{live.version} is live no more: another process changed it meanwhile"
    version = registry.register(task.id, place, manifest, status=status)
    return learn.answer_of(
        AdapterUpdate,
        version,
        manifest,
        report,
        seconds=round(time.monotonic() - start, 2),
        why=manifest["decision"]["why"],
        more_captures=manifest["decision"]["more_captures"],
        dropped=data.manifest["dropped"],
        **{key: manifest[key] for key in ("gate", "transfer", "added_labels", "replayed", "parent_seconds")},
    )


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


def _data(
    folder: Path, live: Version, old: replay.Rows, task: Task, *, seed: int, progress: ProgressSink
) -> tuple[replay.Replayed, Coverage]:
    """Kept and new records as one data set, and the kinds of flows that both have taught."""
    view = replay.View.of(live.manifest)
    chores = task.housekeeping or "housekeeping" in live.manifest.get("kept_fields", ())
    new, unit, coverage = replay.fresh(folder, view, task, chores=chores, seed=seed, progress=progress)
    clean, leaks = replay.without_leaks(old, new)
    data = replay.joined(old, replay.fewer(clean), live, unit=unit, leaks=leaks)
    if "train" not in data.table["part"].to_pylist()[len(old) :]:
        raise InputError(
            "input.no_train",
            "nothing new to learn: no record is left for training that the kept sample does not hold elsewhere",
            input=str(folder),
            hint="add captures: each label needs enough groups for training, validation and test",
        )
    return data, Coverage.of_manifest(live.manifest).merged(coverage)


def _labelled(folder: Path, data: replay.Replayed) -> tuple[Dataset, list[Path]]:
    """What tells captures that are labelled too: the data set that was named, whose rows are raw, or the joined rows and the captures."""
    from trafficllm.lifecycle.datasets import is_data_set
    from trafficllm.records.dataset.dataset import load
    from trafficllm.records.sources import rows as sources

    return (load(folder), []) if is_data_set(folder) else (data, [file.path for file in sources.find(folder).files])


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
    bounded = not full or options.max_steps is not None or options.max_seconds is not None
    steps = {} if bounded else {"max_steps": max(LEAST_STEPS, round(full * SHARE))}
    return options.model_copy(update={"looks": 0, "readout": min(options.readout, READOUT), **steps})


def _judged(
    data: replay.Replayed,
    old: replay.Rows,
    live: Version,
    task: Task,
    training: Training,
    *,
    background: Background | None,
    coverage: Coverage,
) -> tuple[dict[str, Any], Scores, dict[int, str]]:
    """Calibration, quality and gate of the new weights, the live ones beside them on the same held-out rows (validation and test: neither
    chose the new weights); the new ones' test scores, and their predictions for all held-out rows.

    New captures are few and half of them are held out, so a corrected readout that is not rejected learns these at last, unless old data
    would lose by it; the figures on new data are those from before. Its old data are test rows alone: the live readout learnt validation.
    """
    from trafficllm.infer.engine.engine import Engine
    from trafficllm.infer.engine.scorer import WEIGHT, LLMScorer

    training.progress.update("gate", 0, None)
    engine, seed = Engine(training.base), training.seed
    engine.add_adapter("before", live.path)
    engine.add_adapter("after", training.workdir)
    labels = scoring.labels_of(data)
    weight = {key: value for key, value in (live.manifest.get("calibration") or {}).items() if key == WEIGHT}
    after = LLMScorer(engine, "after", task, labels, weight, codec=data.codec)
    before = LLMScorer(engine, "before", task, live.manifest["labels"], weight, codec=data.codec)
    (val, y_val), (test, y_test) = (scoring.rows(data, part, labels) for part in ("val", "test"))
    renewal = _corrected(after, data, old, training) if _corrects(live, data) else None
    if renewal is not None:  # the live readout has learnt the kept validation rows
        y_val, val = [y for i, y in zip(val, y_val, strict=True) if i >= len(old)], [i for i in val if i >= len(old)]
    val_scores = scoring.score_rows(after, data, val)
    if renewal is None:
        after.calibration = scoring.calibrate(after, data, seed=seed, bank=BANK, scores=val_scores)
    umbrella.add(after, data, background, training, coverage)
    start = time.monotonic()
    scores = scoring.score_rows(after, data, test)
    spent = max(time.monotonic() - start, 1e-9)
    predicted = learn.named(val, val_scores) | learn.named(test, scores)
    past = _past(before, data, old, list(predicted))
    truth = dict(zip(predicted, [*y_val, *y_test], strict=True))
    groups = dict(zip(predicted, data.groups(list(predicted)), strict=True))

    def side(rows: Sequence[int]) -> gate.Side:
        columns = ([column[i] for i in rows] for column in (truth, past, predicted, groups))
        return gate.compare(labels, gate.Answers(*columns), seed=seed)

    before_rows, fresh = ([i for i in predicted if (i < len(old)) is kept] for kept in (True, False))
    old_side, new_side = side(before_rows), side(fresh)
    status, why = gate.decide(old_side, new_side)
    on_test = [predicted[i] for i in test]
    if renewal is not None and fresh and status != "rejected":
        earlier = dict(predicted)
        _read_out(after, renewal.readouts(everything=True), training.workdir)
        predicted |= learn.named(before_rows, scoring.score_rows(after, data, before_rows))
        whole = side(before_rows)
        if gate.decide(whole, new_side)[0] == status:
            old_side, why = whole, gate.decide(whole, new_side)[1]
        else:  # what was held out would cost old data too much
            predicted |= earlier
            _read_out(after, renewal.readouts(), training.workdir)
    lacking = gate.wanted(old_side, new_side, _captures(data, old)) if status != "live" else gate.Wanted(0, 0)
    quality = scoring.quality_of(data, training.base, on_test, labels=labels, probabilities=scores.probabilities, seed=seed)
    forward = new_side.before - _majority([truth[i] for i in fresh])
    return (
        {
            "calibration": after.calibration,
            "quality": quality.as_dict(),
            "cost": _cost(after, scores, spent),
            "umbrella": umbrella.judged(after, scores, y_test, umbrella.may_be_positive(data, test, coverage)),
            "gate": Gate(old=old_side.row(), new=new_side.row(), router=None).as_dict(),
            "transfer": {"backward": round(old_side.gain, 6), "forward": round(forward, 6)},
            "decision": {"status": status, "why": f"{why}{lacking}", "more_captures": {"new": lacking.new, "old": lacking.old}},
        },
        scores,
        {i: answer for i, answer in enumerate(old.answers) if answer and renewal is not None} | predicted,
    )


def _corrects(live: Version, data: replay.Replayed) -> bool:
    """Whether the update corrects the live version's readouts, instead of tuning its weights: no new label, and readouts there."""
    from trafficllm.model.adapter.readout import FILE

    return list(data.labels) == list(live.manifest["labels"]) and all((place / FILE).is_file() for place in members.folders(live.path))


def _corrected(after: LLMScorer, data: replay.Replayed, old: replay.Rows, training: Training) -> renewed.Renewal | None:
    """Let the new version answer with corrected readouts, alone, since the label trie has learnt nothing of the new captures; calibrated by
    readouts of the kept rows that leave captures out, as at registration."""
    from trafficllm.infer.engine.scorer import WEIGHT

    renewal = renewed.Renewal.of(after, data, len(old))
    if renewal is None:
        return None
    cross = crossfit.cross_fit(after, data, seed=training.seed, weight=1.0)
    after.calibration = cross.calibration if cross is not None else {WEIGHT: 1.0}
    _read_out(after, renewal.readouts(), training.workdir)
    return renewal


def _read_out(scorer: LLMScorer, readouts: Sequence[Readout], folder: Path) -> None:
    """Let the new weights answer with these readouts, here and in the working folder."""
    scorer.engine.use_readouts(scorer.adapter, readouts)
    for place, readout in zip(members.folders(folder), readouts, strict=True):
        readout.save(place)


def _captures(data: replay.Replayed, old: replay.Rows) -> dict[str, int]:
    """How many new captures (groups) each label has, of all parts."""
    fresh = range(len(old), len(data))
    pairs = set(zip(data.labels_of(fresh), data.groups(fresh), strict=True))
    return dict(Counter(label for label, _ in pairs))


def _past(before: LLMScorer, data: replay.Replayed, old: replay.Rows, rows: Sequence[int]) -> dict[int, str]:
    """The live version's predictions for held-out rows: those it kept with its sample, and for the rest what it predicts now."""
    stored = {i: old.answers[i] for i in rows if i < len(old) and old.answers[i]}
    rest = [i for i in rows if i not in stored]
    return stored | learn.named(rest, scoring.score_rows(before, data, rest))


def _cost(scorer: LLMScorer, scores: Scores, spent: float) -> dict[str, float]:
    from trafficllm.infer import calibration as cal

    unknown = cal.unknown_score(scorer.calibration, scores) > cal.threshold(scorer.calibration)
    rate = round(len(unknown) / spent, 1)
    return {"flows_per_second": rate, "seconds": round(spent, 2), "unknown_share": float(unknown.mean())}


def _majority(truth: Sequence[str]) -> float:
    """Macro-F1 of always naming the commonest label: what forward transfer is measured from."""
    if not truth:
        return 0.0
    counts = Counter(truth)
    most = max(counts.values())
    return 2 * most / (most + len(truth)) / len(counts)


def _history(live: Version, data: replay.Replayed, old: replay.Rows, answers: dict[int, str], *, folder: Path) -> dict[str, Any]:
    """What the version says of where it came from, and the sample that the next update replays."""
    past = set(live.manifest["labels"])
    return {
        "parent": live.version,
        "parent_seconds": float((live.manifest.get("tuning") or {}).get("seconds", 0.0)),
        "added_labels": [label for label in data.labels if label not in past],
        "replayed": list(old.parts).count("train"),
        "replayed_sha256": live.manifest["sample"]["sha256"],
        "full_steps": live.manifest.get("full_steps") or (live.manifest.get("tuning") or {}).get("steps"),
        "sample": replay.keep(data, folder, answers),
    }
