"""TabICL (Qu, Holzmüller, Varoquaux, Le Morvan 2025, arXiv 2502.05564): a transformer that reads labelled rows as context.

The library `tabicl` is an extra, and its weights are a file of the user's: nothing is fetched. The library reads the file with
`torch.load(weights_only=True)`, which builds tensors and plain containers alone and runs nothing that the file names.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trafficllm.core.errors import ArtifactError, InputError, ResourceError
from trafficllm.core.sampling import evenly_over_labels
from trafficllm.core.types import F64, I64
from trafficllm.evaluate.baselines.learners import Data, Model, spread

NAME = "tabicl"
CONTEXT = 3000
"""Labelled rows in the context at most, evenly over labels: time grows with them, and TabICL was pre-trained on tables of some thousand."""
COLUMNS = 100
"""Columns at most. All 300 take 3.4 times as long: 300 rows of context and 276 judged ones, one permutation of 100 columns, took 5.3 s of
one core with random weights of the published size."""
VIEWS_TRIED = 4
"""Permutations of columns and labels whose answers are averaged; the library's default is 8, in twice the time."""


def check(checkpoint: Path) -> None:
    """Have a two-row table answered with a weights file: called once, before any work.

    Raises ResourceError where `tabicl` is not installed, InputError where there is no such file, ArtifactError for a file that is no
    checkpoint of a TabICL classifier.
    """
    if not checkpoint.is_file():
        raise InputError(
            "input.checkpoint", "no such weights file", input=str(checkpoint), hint="--checkpoint names a TabICL classifier's .ckpt"
        )
    _library()
    hint = "a TabICL classifier's checkpoint: a file of torch.save with `config` and `state_dict`"
    if not zipfile.is_zipfile(checkpoint):
        raise ArtifactError("artifact.checkpoint", "is no file of torch.save", input=str(checkpoint), hint=hint)
    try:
        rows = np.array([[0.0, 1.0], [1.0, 0.0]])
        answer = _classifier(checkpoint, 0, 1).fit(rows, np.array([0, 1])).predict_proba(rows)
    except Exception as error:  # a file may hold anything, and the library raises as it falls
        why = f"is no checkpoint of a TabICL classifier: {type(error).__name__} {str(error).partition(chr(10))[0][:160]}"
        raise ArtifactError("artifact.checkpoint", why, input=str(checkpoint), hint=hint) from error
    if answer.shape != (2, 2) or not np.isfinite(answer).all():
        raise ArtifactError("artifact.checkpoint", "its answers are no probabilities", input=str(checkpoint), hint=hint)


def fit_in_context(data: Data, view: str, params: Mapping[str, Any]) -> Model:
    """Training rows as context; `params`: rows (at most so many of them). `data.checkpoint` names the weights."""
    assert data.checkpoint is not None
    X, y = data.matrix("train", view), data.truth("train")
    some = evenly_over_labels([data.labels[k] for k in y], params["rows"])
    columns = telling(X[some], y[some], COLUMNS)
    classifier = _classifier(data.checkpoint, data.seed, data.threads).fit(X[some][:, columns], y[some])
    width, classes = len(data.labels), classifier.classes_.tolist()

    def answer(Z: F64) -> F64:
        if not len(Z):
            return np.zeros((0, width))
        return spread(np.asarray(classifier.predict_proba(Z[:, columns]), dtype=np.float64), classes, width)

    return answer


def telling(X: F64, y: I64, most: int) -> I64:
    """At most `most` columns of X [n, columns], in their order: those whose class means differ most beside the spread within classes
    (the F ratio of an analysis of variance, its constant factor aside).

    >>> telling(np.array([[0.0, 1, 5], [0, 2, 6], [0, 9, 5], [0, 8, 6]]), np.array([0, 0, 1, 1]), 1).tolist()
    [1]
    """
    between, within = np.zeros(X.shape[1]), np.zeros(X.shape[1])
    for label in np.unique(y):
        mine = X[y == label]
        between += len(mine) * (mine.mean(axis=0) - X.mean(axis=0)) ** 2
        within += ((mine - mine.mean(axis=0)) ** 2).sum(axis=0)
    ratio = between / (within + 1e-9 * (between + within) + 1e-30)
    return np.sort(np.argsort(-ratio, kind="stable")[:most]).astype(np.int64)


def _classifier(checkpoint: Path, seed: int, threads: int) -> Any:
    """A classifier on the CPU that fetches nothing."""
    return _library().TabICLClassifier(
        n_estimators=VIEWS_TRIED,
        batch_size=1,  # permutations one after the other: memory of one
        model_path=checkpoint,
        allow_auto_download=False,
        device="cpu",
        random_state=seed,
        n_jobs=threads,
    )


def _library() -> Any:
    try:
        import tabicl
    except ImportError as error:
        hint = "`pip install 'trafficllm[tabicl]'`"
        raise ResourceError("resource.extra", "tabicl is not installed", input="--checkpoint", hint=hint) from error
    return tabicl
