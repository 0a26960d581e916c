"""How true to life are generated flows? Against held-out real ones, with what real flows differ by among themselves.

Every distance stands beside its floor (two real samples of the same size) and beside three generators any
model has to beat, fitted on the training flows: independent fields, a Bayesian network, resampled training flows.
"""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from trafficllm.core.errors import InputError
from trafficllm.core.metrics import macro_f1
from trafficllm.core.types import F64, Record
from trafficllm.evaluate.baselines.features import everything, sizes_times
from trafficllm.evaluate.fidelity.fields import CONTINUOUS, FIELDS, Extract, Quantity, emd, jsd, pooled, summed
from trafficllm.evaluate.fidelity.results import Fidelity
from trafficllm.evaluate.fidelity.samplers import SAMPLERS, sample
from trafficllm.records.codec.canonical import canonical

DRAWS = 10
"""Samples a distance is averaged over: one draw of 50 flows moves a field's JSD by up to .02."""
MIN_FLOWS = 4
_Draws = list[dict[str, list[int]]]
_Measure = Callable[[str, list[int], list[int]], float] | None


def fidelity(
    real: Sequence[Record],
    synthetic: Sequence[Record],
    *,
    train: Sequence[Record] = (),
    real_labels: Sequence[str] = (),
    synthetic_labels: Sequence[str] = (),
    train_labels: Sequence[str] = (),
    seed: int = 0,
) -> Fidelity:
    """The generation report of `evaluate generation` (one class, or several with labels).

    `real` are held-out flows, `train` the flows the generator learnt from; without `train` one half of `real` stands
    in for it. All records must come through the same observer (same mask, same snap length); each is compared as the
    codec carries it: 16 packets, no hidden bytes.
    With labels of two classes or more `tstr`, `trts`, `trtr` are macro-F1 of LightGBM trained on the first and
    tested on the second kind (t = trained, r = real, s = synthetic), else None.
    Raises InputError for fewer than four real flows or two synthetic ones.
    """
    if len(real) < MIN_FLOWS or len(synthetic) < 2:
        raise InputError(
            "input.too_few",
            f"{len(real)} real and {len(synthetic)} synthetic flows cannot be compared",
            hint=f"give at least {MIN_FLOWS} real and 2 synthetic flows of the class",
        )
    labels = tuple(map(list, (real_labels, synthetic_labels, train_labels)))
    held, synthetic, train = (list(map(canonical, records)) for records in (real, synthetic, train))
    if not train:
        held, train, labels = halved(held, labels, seed)
    size = max(2, min(len(held) // 2, len(synthetic)))
    rivals = {"synthetic": synthetic}
    rivals |= {name: sampler(train, max(len(synthetic), size), seed) for name, sampler in SAMPLERS.items()}
    draws = _draws(held, rivals, size, seed)
    rows = {name: _row("jsd", _field_distance(extract, held, rivals), draws) for name, extract in FIELDS.items()}
    fields = {name: row for name, row in rows.items() if row is not None}
    scores = cross_scores(held, synthetic, train, labels, seed)
    return Fidelity(
        fields=fields,
        emd={name: _row("emd", _quantity_distance(extract, held, rivals), draws) for name, extract in CONTINUOUS.items()},
        mean_jsd=statistics.fmean(row["jsd"] for row in fields.values()),
        mean_floor=statistics.fmean(row["floor"] for row in fields.values()),
        mean={name: statistics.fmean(row[name] for row in fields.values()) for name in SAMPLERS},
        **scores,
        discriminator_f1=discriminator_f1(held, synthetic, seed=seed),
        discriminator_real=discriminator_f1(held, train, seed=seed),
        copies={"synthetic": copy_share(synthetic, train), "real": copy_share(held, train)},
        nearest={"synthetic": nearest(synthetic, train), "real": nearest(held, train)},
        n={"real": len(held), "synthetic": len(synthetic), "train": len(train), "compared": size},
    )


def halved(real: list[Record], labels: tuple[list[str], ...], seed: int) -> tuple[list[Record], list[Record], tuple[list[str], ...]]:
    """Real flows and their labels in two halves: where nothing is known of training flows, one stands in for them."""
    order = random.Random(seed).sample(range(len(real)), len(real))
    one, two = order[::2], order[1::2]
    own = labels[0]
    split = ([own[i] for i in one], labels[1], [own[i] for i in two]) if own else labels
    return [real[i] for i in one], [real[i] for i in two], split


def _draws(real: Sequence[Record], rivals: Mapping[str, Sequence[Record]], size: int, seed: int) -> _Draws:
    """`DRAWS` times: indexes of two disjoint real samples ("one", "floor") and one of each generator's flows."""
    draws: _Draws = []
    for number in range(DRAWS):
        rng = random.Random(f"{seed}/{number}")
        mixed = sample(range(len(real)), len(real), rng)
        others = {name: sample(range(len(records)), size, rng) for name, records in rivals.items()}
        draws.append({"one": mixed[:size], "floor": mixed[size : 2 * size], **others})
    return draws


def _field_distance(extract: Extract, real: Sequence[Record], rivals: Mapping[str, Sequence[Record]]) -> _Measure:
    columns = {name: [Counter(extract(record)) for record in records] for name, records in {"one": real, **rivals}.items()}
    if not any(map(any, columns.values())):
        return None

    def distance(name: str, one: list[int], other: list[int]) -> float:
        return jsd(summed(columns["one"], one), summed(columns[name], other))

    return distance


def _quantity_distance(extract: Quantity, real: Sequence[Record], rivals: Mapping[str, Sequence[Record]]) -> _Measure:
    columns = {name: [list(extract(record)) for record in records] for name, records in {"one": real, **rivals}.items()}

    def distance(name: str, one: list[int], other: list[int]) -> float:
        return emd(pooled(columns["one"], one), pooled(columns[name], other))

    return distance


def _row(word: str, distance: _Measure, draws: _Draws) -> dict[str, float] | None:
    """Mean distance over equal-size samples: each generator against real flows, and real against other real flows."""
    if distance is None:
        return None
    names = [name for name in draws[0] if name != "one"]
    row = {name: statistics.fmean(distance("one" if name == "floor" else name, d["one"], d[name]) for d in draws) for name in names}
    return {word: row.pop("synthetic"), **row}


def _trees(seed: int) -> Any:
    """One thread and fixed order of sums: equal inputs give equal scores."""
    from lightgbm import LGBMClassifier

    return LGBMClassifier(
        n_estimators=100,
        num_leaves=15,
        learning_rate=0.1,
        min_child_samples=5,
        subsample=0.9,
        subsample_freq=1,
        colsample_bytree=0.5,
        random_state=seed,
        n_jobs=1,
        deterministic=True,
        force_row_wise=True,
        verbosity=-1,
    )


def _score(x: F64, y: Sequence[str], test_x: F64, test_y: Sequence[str], seed: int) -> float:
    classes = sorted({*y, *test_y})
    if len(set(y)) < 2:
        return macro_f1(classes, list(test_y), [next(iter(y))] * len(test_y))
    model = _trees(seed).fit(x, np.asarray(y))
    predicted = np.asarray(model.booster_.predict(test_x)).reshape(len(test_y), -1)
    names = list(model.classes_)
    picks = predicted.argmax(axis=1) if predicted.shape[1] > 1 else (predicted[:, 0] > 0.5).astype(int)
    return macro_f1(classes, list(test_y), [str(names[k]) for k in picks])


def cross_scores(
    real: Sequence[Record], synthetic: Sequence[Record], train: Sequence[Record], labels: tuple[list[str], ...], seed: int
) -> dict[str, float | None]:
    """Macro-F1 trained on synthetic tested on real, the reverse, and trained on real tested on real."""
    sets = (real, synthetic, train)
    if any(len(names) != len(records) for names, records in zip(labels, sets, strict=True)) or len(set(labels[0])) < 2:
        return {"tstr": None, "trts": None, "trtr": None}
    x = [everything(records) for records in sets]
    held, made, learnt = range(3)
    return {
        "tstr": _score(x[made], labels[made], x[held], labels[held], seed),
        "trts": _score(x[learnt], labels[learnt], x[made], labels[made], seed),
        "trtr": _score(x[learnt], labels[learnt], x[held], labels[held], seed),
    }


def discriminator_f1(real: Sequence[Record], synthetic: Sequence[Record], *, seed: int = 0) -> float:
    """Macro-F1 of LightGBM telling generated from real flows, equal numbers of each, two folds; 0.5 is chance.

    Equal contents stay in one fold: a copied flow must not be recognised as such.
    """
    rng = random.Random(seed)
    size = min(len(real), len(synthetic))
    records = [*sample(real, size, rng), *sample(synthetic, size, rng)]
    y = ["real"] * size + ["synthetic"] * size
    x = everything(records)
    folds = list(_folds(records, rng))
    predicted = [_score(x[learn], [y[i] for i in learn], x[test], [y[i] for i in test], seed) for learn, test in folds]
    return statistics.fmean(predicted)


def _folds(records: Sequence[Record], rng: random.Random) -> Iterator[tuple[list[int], list[int]]]:
    groups = list(dict.fromkeys(map(_content, records)))
    rng.shuffle(groups)
    side = {content: k % 2 for k, content in enumerate(groups)}
    parts: tuple[list[int], list[int]] = ([], [])
    for i, record in enumerate(records):
        parts[side[_content(record)]].append(i)
    if parts[0] and parts[1]:
        yield parts[0], parts[1]
        yield parts[1], parts[0]
    else:
        yield [*parts[0], *parts[1]], [*parts[0], *parts[1]]


def _content(record: Record) -> tuple[object, ...]:
    """What makes two flows the same flow again: packets, and payload as far as it is shown."""
    return record.proto, record.dirs, record.sizes, record.flags, record.payload, record.hidden


def copy_share(records: Sequence[Record], train: Sequence[Record]) -> float:
    """Share of `records` whose packets and shown payload equal a training flow's; compare with held-out real flows."""
    contents = set(map(_content, train))
    return sum(_content(record) in contents for record in records) / len(records)


def nearest(records: Sequence[Record], train: Sequence[Record]) -> float:
    """Median distance to the nearest training flow over sizes and times, in standard deviations of the training set."""
    mean, spread = _moments(base := sizes_times(train))
    base, rows = (base - mean) / spread, (sizes_times(records) - mean) / spread
    squares = (base**2).sum(axis=1)
    distances = [np.sqrt(max(0.0, float(np.min(squares - 2 * (base @ row) + row @ row)))) for row in rows]
    return float(np.median(distances))


def _moments(x: F64) -> tuple[F64, F64]:
    spread = x.std(axis=0)
    return x.mean(axis=0), np.where(spread > 0, spread, 1.0)
