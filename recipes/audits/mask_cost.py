"""What masks cost: trees on each folder's validation part, `python recipes/audits/mask_cost.py FOLDER... [--keep content,query]`.

One line a folder: macro-F1 of LightGBM and of a random forest, each fitted on the training part under `strict`, and how many units
a record takes. Run it twice, with and without `--keep`, to see what a mask takes away. The test part is never looked at.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from trafficllm.core.metrics import macro_f1
from trafficllm.evaluate.baselines.learners import Data, Part
from trafficllm.evaluate.baselines.table import LINEAR, fit
from trafficllm.lifecycle.datasets import pick_task
from trafficllm.records.dataset.builder import BuildOptions, build_dataset
from trafficllm.records.dataset.dataset import load

MODELS = ("lightgbm", "random_forest")


def cost(folder: Path, keep: Sequence[str], seed: int) -> str:
    """The line of one folder."""
    with tempfile.TemporaryDirectory() as scratch:
        build_dataset(folder, task=pick_task(folder, "", ()), out=Path(scratch) / "data", options=BuildOptions(keep=keep, seed=seed))
        data = load(Path(scratch) / "data")
    labels = list(data.manifest["trainable"])
    sides = []
    for name in ("train", "val"):
        rows = [i for i, label in zip(data.indices(name), data.labels_of(data.indices(name)), strict=True) if label in labels]
        part = Part.of(data, rows)
        sides.append(part.distinct() if part.kind == "http" else part)
    parts = Data(tuple(labels), *sides, seed=seed)
    names = (*MODELS, LINEAR) if sides[0].kind == "http" else MODELS
    scores = {name: macro_f1(labels, sides[1].y, fit(name, parts).predict(sides[1])) for name in names}
    length = sum(map(len, data.units(data.indices("train")))) / max(len(data.indices("train")), 1)
    shown = " ".join(f"{name} {score:.3f}" for name, score in scores.items())
    return f"{folder.name} train {len(sides[0].y)} val {len(sides[1].y)} {shown} units {length:.1f}"


def main() -> None:
    """Every folder on its own line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--keep", default="", help="fields that `strict` would hide, parted by commas")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for folder in args.folders:
        print(cost(folder, [name for name in args.keep.split(",") if name], args.seed), flush=True)


if __name__ == "__main__":
    main()
