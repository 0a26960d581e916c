"""Convolutional kernels on page loads: MiniRocket and a ridge classifier, a further baseline for WF.

    python recipes/results/rocket.py export --dataset DATASET --out series.npz
    python recipes/results/rocket.py score series.npz --out docs/results/rocket.json        # in an environment with aeon

No kept library that has these kernels can be installed beside what the package needs (aeon 1.6.0 wants numba below .64), so the two halves
run in two environments: the first needs trafficllm, the second `pip install aeon==1.6.0` and nothing of ours. A series has two channels,
the direction of each cell and the logarithm of the gap before it, of the records as all others see them; shorter loads end in zeros. As
the adapter's readout and the trees do, the classifier learns training and validation parts. Settings are the library's own; nothing is
chosen.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np


def export(dataset: Path, out: Path) -> None:
    """Series float32 [rows, 2, cells], labels and parts of a data set of cell sequences."""
    from trafficllm.core.types import RESP
    from trafficllm.records.codec.canonical import canonical
    from trafficllm.records.dataset.dataset import load

    data = load(dataset)
    series, labels, learnt = [], [], []
    for part in ("train", "val", "test"):
        rows = data.indices(part)
        shown = [canonical(record, data.codec) for record in data.records(rows)]
        series += [_channels(record.dirs, record.iats, RESP) for record in shown]
        labels += data.labels_of(rows)
        learnt += [part != "test"] * len(rows)
    cells = max(one.shape[1] for one in series)
    values = np.stack([np.pad(one, ((0, 0), (0, cells - one.shape[1]))) for one in series]).astype(np.float32)
    np.savez_compressed(out, series=values, labels=np.array(labels), learnt=np.array(learnt), dataset=data.sha256)


def _channels(dirs: Any, gaps: Any, answer: int) -> Any:
    """Directions (1 from the server, -1 from the client) and log2 of 1 + microseconds, [2, cells]."""
    signs = np.where(np.asarray(dirs) == answer, 1.0, -1.0)
    times = np.log2(1.0 + np.maximum(np.asarray(gaps, dtype=np.float64), 0.0) / 1000.0)
    return np.stack([signs, times])


def score(file: Path, out: Path, seed: int) -> None:
    """Macro-F1 and accuracy on the test part."""
    import aeon
    from aeon.transformations.collection.convolution_based import MiniRocket
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with np.load(file, allow_pickle=False) as held:
        series, labels, learnt, dataset = held["series"], held["labels"], held["learnt"], str(held["dataset"])
    start = time.process_time()
    kernels = MiniRocket(random_state=seed, n_jobs=1)
    train, test = kernels.fit_transform(series[learnt]), kernels.transform(series[~learnt])
    model = make_pipeline(StandardScaler(with_mean=False), RidgeClassifierCV(alphas=np.logspace(-3, 3, 7)))
    predicted = model.fit(train, labels[learnt]).predict(test)
    truth = labels[~learnt]
    body = {
        "command": "python recipes/results/rocket.py score SERIES",
        "library": f"aeon {aeon.__version__}",
        "task": "WF",
        "dataset_sha256": dataset,
        "n_train": int(learnt.sum()),
        "n_test": len(truth),
        "macro_f1": round(float(f1_score(truth, predicted, average="macro", labels=np.unique(truth))), 4),
        "accuracy": round(float(accuracy_score(truth, predicted)), 4),
        "seed": seed,
        "processor_seconds": round(time.process_time() - start, 1),
    }
    out.write_text(json.dumps(body, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(body)


def main() -> None:
    """One of the two halves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    halves = parser.add_subparsers(dest="half", required=True)
    first, second = halves.add_parser("export"), halves.add_parser("score")
    first.add_argument("--dataset", type=Path, required=True)
    second.add_argument("series", type=Path)
    second.add_argument("--seed", type=int, default=0)
    for half in (first, second):
        half.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.half == "export":
        export(args.dataset, args.out)
    else:
        score(args.series, args.out, args.seed)


if __name__ == "__main__":
    main()
