"""The tuned adapters that a version is made of: tuned here, from one seed a member, or taken from folders.

They lie in the working folder as in a version (`registry.members`). Those of several members are stored in float16.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import ArtifactError, UsageError
from trafficllm.core.files import atomic_write, read_json
from trafficllm.lifecycle.adapters.learn_router import base_facts
from trafficllm.registry import members

if TYPE_CHECKING:
    from trafficllm.lifecycle.adapters.training import Training
    from trafficllm.model.base.load import Base
    from trafficllm.model.results import TuneReport
    from trafficllm.model.tuning.job import TuneData


@dataclass(frozen=True, slots=True)
class Member:
    """A tuned adapter: what its tuning took, and from which seed (None where an adapter from elsewhere does not say)."""

    report: TuneReport
    seed: int | None


def tuned(training: Training, data: TuneData, start_from: Sequence[Path] = ()) -> list[Member]:
    """Tune the members into the working folder, each from a seed one above that before; the same call again resumes.

    With `start_from`, folders of tuned adapters, each member goes on from one of them.
    """
    from trafficllm.model.tuning import job as tune

    starts: Sequence[Path | None] = start_from or [None] * training.members
    _clear(training.workdir, len(starts))
    made = []
    for number, start in enumerate(starts, 1):
        options = training.options.model_copy(update={"seed": training.seed + number - 1})
        place = members.place(training.workdir, number)
        report = tune.tune_task(training.base, data, place, options, training.progress, start_from=start)
        made.append(Member(report, options.seed))
    _shorten(training.workdir)
    return made


def taken(sources: Sequence[Path], base: Base, labels: Sequence[str], place: Path) -> list[Member]:
    """Copy adapters trained elsewhere to `place`, one a member, each checked as untrusted; their reports where they bring some.

    A folder of several members stands for all of them. ArtifactError with every reason: weights that do not fit the base, another base or
    codec, labels that are not the data's. UsageError for too many.
    """
    folders = [each for source in sources for each in members.folders(source)]
    if len(folders) > members.MOST:
        raise UsageError("usage.option", f"{len(folders)} members", input="--from", hint=f"{members.MOST} at most")
    _clear(place, len(folders))
    made = [_taken(folder, base, labels, members.place(place, number)) for number, folder in enumerate(folders, 1)]
    _shorten(place)
    return made


def facts(made: Sequence[Member]) -> dict[str, Any]:
    """What a manifest says of several members, `members`: folder, seed, steps and seconds of tuning; nothing of one alone."""
    if len(made) == 1:
        return {}
    places = ["", *(f"{members.FOLDER}/{number}" for number in range(2, len(made) + 1))]
    rows = zip(places, made, strict=True)
    return {"members": [{"folder": at, "seed": one.seed, "steps": one.report.steps, "seconds": one.report.seconds} for at, one in rows]}


def _clear(place: Path, count: int) -> None:
    """Remove the members beyond `count` that an earlier call left in the working folder."""
    for path in (place / members.FOLDER).glob("*"):
        if not path.name.isdigit() or int(path.name) > count:
            shutil.rmtree(path, ignore_errors=True)
    if count == 1:
        shutil.rmtree(place / members.FOLDER, ignore_errors=True)


def _shorten(place: Path) -> None:
    """Store several members in float16, as they will be scored, served and tuned on; one alone stays in float32."""
    from trafficllm.model.adapter import lora
    from trafficllm.model.adapter.readout import Readout

    folders = members.folders(place)
    for folder in folders if len(folders) > 1 else ():
        lora.halve(folder)
        readout = Readout.load(folder)
        if readout is not None:
            readout.halved().save(folder)


def _taken(folder: Path, base: Base, labels: Sequence[str], place: Path) -> Member:
    """One adapter trained elsewhere, without its members."""
    from trafficllm.model.adapter.guard import CONFIG, WEIGHTS, check_adapter
    from trafficllm.model.adapter.readout import FILE as READOUT
    from trafficllm.model.results import TuneReport
    from trafficllm.model.tuning.job import REPORT
    from trafficllm.registry import fit

    said: dict[str, Any] = next((read_json(folder / name) for name in ("manifest.json", REPORT) if (folder / name).is_file()), {})
    here, names = base_facts(base), sorted(labels)
    # An adapter without a manifest says nothing to contradict; what it is worth is measured next.
    stated = {**here, "profile": "", "labels": names, **_facts_of(said)}
    reasons = fit.reasons(stated, here, here["codec_hash"], names, None)
    try:
        check_adapter(folder, base)
    except ArtifactError as error:
        reasons = [*reasons, error.message]
    if reasons:
        hint = "name the base and the data it was trained with, or train it here: leave out --from"
        raise ArtifactError("artifact.fit", "the adapter does not fit: " + "; ".join(reasons), input=str(folder), hint=hint)
    for name in (CONFIG, WEIGHTS, READOUT):
        if (folder / name).is_file():
            atomic_write(place / name, (folder / name).read_bytes())
    past, seed = said.get("report") or said.get("tuning"), said.get("seed", said.get("options", {}).get("seed"))
    if past:
        return Member(TuneReport(**{**past, "reused": True}), seed)
    none = {"steps": 0, "tokens": 0, "tokens_per_second": 0.0, "seconds": 0.0, "peak_bytes": 0, "resumed_from": None, "trainable": 0}
    more = {"precision": "float32", "processes": 1, "validation": {}, "readout": None}
    return Member(TuneReport(stage="task", best_step=0, reused=True, **none, **more), seed)


def _facts_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What an adapter's own manifest says of its base, codec and labels; labels in a fixed order."""
    hashes = {key: manifest[key] for key in ("base_sha256", "tokenizer_sha256", "codec_hash") if manifest.get(key)}
    return {**hashes, "labels": sorted(manifest["labels"])} if "labels" in manifest else hashes
