"""TF-IDF + logistic regression on the instruction corpus: what a linear model gets on held-out authors.

    python recipes/instructions/baseline.py            # accuracy, `none` AUROC, per task and per author
    python recipes/instructions/baseline.py --wrong    # and every held-out line it gets wrong

One-vs-rest over the task ids; a line's answer is every task above the threshold (or the best one), `none`
where the `none` column wins. Accuracy asks for the exact set. The threshold is chosen on a fifth of the
training authors.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline

DATA = Path(__file__).resolve().parents[2] / "src" / "trafficllm" / "data" / "instructions"
CLASSES = ("MTD", "BND", "MDD", "WAD", "AAD", "EVD", "TBD", "EAC", "WF", "CD", "MTG", "BTG", "EVG", "EAG", "FIELD", "none")
THRESHOLDS = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
VALIDATION_EVERY = 5
Line = dict[str, Any]
Scores = NDArray[np.float64]


def read(split: str) -> list[Line]:
    """The lines of one split."""
    return [json.loads(line) for line in (DATA / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def targets(lines: list[Line]) -> NDArray[np.int_]:
    """0/1 matrix over CLASSES; a line without tasks is `none`."""
    wanted = [set(line["tasks"] or ["none"]) for line in lines]
    return np.array([[int(name in row) for name in CLASSES] for row in wanted])


def model() -> Pipeline:
    """Word 1-2-grams and character 2-5-grams, one logistic regression per class."""
    features = FeatureUnion(
        [
            ("words", TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")),
            ("chars", TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=2)),
        ]
    )
    return make_pipeline(features, OneVsRestClassifier(LogisticRegression(C=20, class_weight="balanced", solver="liblinear")))


def answers(scores: Scores, threshold: float) -> list[frozenset[str]]:
    """The answered task set of each row: the best class, and every other task above the threshold."""
    rows = []
    for row in scores:
        best = CLASSES[int(row.argmax())]
        others = {name for name, p in zip(CLASSES, row, strict=True) if p >= threshold and name != "none"}
        rows.append(frozenset() if best == "none" else frozenset({best} | others))
    return rows


def exact(lines: list[Line], answered: list[frozenset[str]]) -> float:
    """Share of lines whose task set is answered exactly."""
    return sum(set(line["tasks"]) == got for line, got in zip(lines, answered, strict=True)) / len(lines)


def fit_and_score(train: list[Line], test: list[Line]) -> Scores:
    """Probabilities of CLASSES for `test` after fitting on `train`."""
    fitted = model().fit([line["text"] for line in train], targets(train))
    scores: Scores = fitted.predict_proba([line["text"] for line in test])
    return scores


def choose_threshold(train: list[Line]) -> float:
    """The threshold with the best accuracy on every fifth training author."""
    authors = sorted({line["author"] for line in train})[::VALIDATION_EVERY]
    inner = [line for line in train if line["author"] not in authors]
    outer = [line for line in train if line["author"] in authors]
    scores = fit_and_score(inner, outer)
    return max(THRESHOLDS, key=lambda threshold: exact(outer, answers(scores, threshold)))


def evaluate() -> tuple[dict[str, Any], list[tuple[Line, frozenset[str]]]]:
    """Figures on the held-out authors and the lines answered wrongly."""
    train, test = read("train"), read("heldout")
    threshold = choose_threshold(train)
    scores = fit_and_score(train, test)
    answered = answers(scores, threshold)
    wrong = [(line, got) for line, got in zip(test, answered, strict=True) if set(line["tasks"]) != got]
    totals = Counter("+".join(line["tasks"]) or "none" for line in test)
    missed = Counter("+".join(line["tasks"]) or "none" for line, _ in wrong)
    by_author = Counter(line["author"] for line in test)
    missed_author = Counter(line["author"] for line, _ in wrong)
    single = [i for i, line in enumerate(test) if len(line["tasks"]) < 2]
    figures = {
        "train": len(train),
        "heldout": len(test),
        "threshold": threshold,
        "accuracy": round(exact(test, answered), 4),
        "accuracy_single": round(exact([test[i] for i in single], [answered[i] for i in single]), 4),
        "top1_single": round(float((targets(test)[single].argmax(1) == scores[single].argmax(1)).mean()), 4),
        "none_auroc": round(float(roc_auc_score([not line["tasks"] for line in test], scores[:, -1])), 4),
        "by_task": {key: round(1 - missed[key] / count, 3) for key, count in sorted(totals.items())},
        "by_author": {key: round(1 - missed_author[key] / count, 3) for key, count in sorted(by_author.items())},
    }
    return figures, wrong


def main() -> None:
    """Print the figures, and on request the wrong lines."""
    parser = argparse.ArgumentParser(description="Linear baseline on the instruction corpus.")
    parser.add_argument("--wrong", action="store_true")
    figures, wrong = evaluate()
    print(json.dumps(figures, indent=1))
    if parser.parse_args().wrong:
        for line, got in wrong:
            print("+".join(line["tasks"]) or "none", "->", "+".join(sorted(got)) or "none", "|", line["author"], "|", line["text"])


if __name__ == "__main__":
    main()
