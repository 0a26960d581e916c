"""The wording model, fitted: one logistic regression a task over a question's phrases.

The shipped one is made by `recipes/instructions/wording.py` from the training authors; a task of one's own gets its own column when the
router learns it. Authors that are held out take no part in either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficllm.core.types import F64, NONE
from trafficllm.infer.router.phrases import KINDS, Keys, phrases
from trafficllm.infer.router.wording import FACTS, SEVERAL, Table, Wording, glossary_hash

QuestionPhrases = Sequence[Mapping[str, tuple[Keys, NDArray[np.int64]]]]
F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class WordingOptions:
    """`least`: questions a phrase must occur in, by kind; `strength`: C; `balance`: exponent of the inverse class frequency.

    Chosen by five folds over the training authors (`recipes/instructions/wording.py --folds`).
    """

    least: tuple[int, int, int] = (2, 3, 2)
    strength: float = 20.0
    balance: float = 0.5
    rounds: int = 60


def targets(tasks: Sequence[Sequence[str]], columns: Sequence[str], facts: Sequence[bool] = ()) -> F32:
    """1 where a question asks for the column's task [n, columns]; "none" where it asks for none, "several" where for more than one,
    "facts" where `facts` [n] says so."""
    told = facts or [False] * len(tasks)
    answers = [
        {*names, *([] if names else [NONE]), *([SEVERAL] if len(names) > 1 else []), *([FACTS] if fact else [])}
        for names, fact in zip(tasks, told, strict=True)
    ]
    return np.array([[name in row for name in columns] for row in answers], np.float32).reshape(len(tasks), len(columns))


def fit(texts: Sequence[str], wanted: F32, columns: Sequence[str], options: WordingOptions | None = None) -> Wording:
    """A wording model of `columns` from questions and their `targets`; the same input gives the same bytes."""
    return fit_phrases([phrases(text) for text in texts], wanted, columns, options)


def fit_phrases(questions: QuestionPhrases, wanted: F32, columns: Sequence[str], options: WordingOptions | None = None) -> Wording:
    """As `fit`, for questions whose phrases have been taken already."""
    from scipy import sparse

    options = options or WordingOptions()
    empty = {kind: _vocabulary([row[kind][0] for row in questions], least) for kind, least in zip(KINDS, options.least, strict=True)}
    x = sparse.hstack([_matrix(questions, kind, table) for kind, table in empty.items()], format="csr")
    weights, bias = _regress(x, wanted, options)
    tables, begin = {}, 0
    for kind, table in empty.items():
        part = weights[begin : begin + len(table.keys)]
        begin += len(table.keys)
        scale = np.maximum(np.abs(part).max(axis=0, initial=0.0), 1e-6) / 127
        tables[kind] = Table(table.keys, table.idf, np.rint(part / scale).astype(np.int8), scale.astype(np.float32))
    facts: dict[str, Any] = {"rows": len(questions), "phrases": len(weights), "glossary_sha256": glossary_hash()}
    return Wording(tuple(columns), tables, bias.astype(np.float32), facts)


def _vocabulary(questions: Sequence[Keys], least: int) -> Table:
    """Phrases of at least `least` questions, with smoothed inverse document frequency and no weights yet."""
    keys, count = np.unique(np.concatenate([*questions, np.zeros(0, np.uint32)]).astype(np.uint32), return_counts=True)
    keys, count = keys[count >= least], count[count >= least]
    idf = (np.log((1 + len(questions)) / (1 + count)) + 1).astype(np.float16).astype(np.float32)
    return Table(keys, idf, np.zeros((len(keys), 0), np.int8), np.zeros(0, np.float32))


def _matrix(questions: QuestionPhrases, kind: str, table: Table) -> Any:
    """Sparse [questions, phrases] of float32."""
    from scipy import sparse

    placed = [table.place(*row[kind]) for row in questions]
    ends = np.cumsum([0, *(len(rows) for rows, _ in placed)])
    values = np.concatenate([np.zeros(0, np.float32), *(v for _, v in placed)])
    columns = np.concatenate([np.zeros(0, np.int64), *(rows for rows, _ in placed)])
    return sparse.csr_matrix((values, columns, ends), shape=(len(questions), len(table.keys)))


def _regress(x: Any, wanted: F32, options: WordingOptions) -> tuple[F32, F32]:
    """Weights [phrases, columns] and bias [columns] of all columns' regularised logistic regressions at once (L-BFGS)."""
    from scipy.optimize import minimize

    size, columns = x.shape[1], wanted.shape[1]
    across, sign = x.T.tocsr(), 2 * wanted - 1
    share = np.clip(wanted.mean(axis=0), 1e-6, 1 - 1e-6)
    cost = np.where(wanted > 0, (0.5 / share) ** options.balance, (0.5 / (1 - share)) ** options.balance).astype(np.float32)
    ridge = np.float32(1 / options.strength)

    def loss(flat: F64) -> tuple[float, F64]:
        w = flat.astype(np.float32).reshape(size + 1, columns)
        margin = (x @ w[:size] + w[size]) * sign
        slope = -cost * sign / (1 + np.exp(np.clip(margin, -50, 50)))
        down = np.vstack([across @ slope + ridge * w[:size], slope.sum(axis=0, keepdims=True)])
        penalty = 0.5 * float(ridge) * float(np.square(w[:size], dtype=np.float64).sum())
        return float((cost * np.logaddexp(0, -margin)).sum(dtype=np.float64)) + penalty, down.ravel().astype(np.float64)

    settings = {"maxiter": options.rounds, "maxcor": 8, "ftol": 1e-7}
    best = minimize(loss, np.zeros((size + 1) * columns), jac=True, method="L-BFGS-B", options=settings).x
    w = best.astype(np.float32).reshape(size + 1, columns)
    return w[:size], w[size]
