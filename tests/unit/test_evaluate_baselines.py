from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from evaluate_samples import LABELS, part

from trafficllm.core import metrics
from trafficllm.core.errors import InputError
from trafficllm.core.types import Facts, Record, Span
from trafficllm.evaluate.baselines import features, probes
from trafficllm.evaluate.baselines import table as baselines

TRAIN, VAL, TEST = part(150, 0), part(60, 1), part(90, 2)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, baselines.Outcome]:
    return baselines.run(TRAIN, VAL, TEST, labels=LABELS, budget_s=3)


def test_every_baseline_answers_every_row(outcomes: dict[str, baselines.Outcome]) -> None:
    assert tuple(outcomes) == baselines.NAMES
    for row in outcomes.values():
        proba = row.probabilities
        assert proba.shape == (90, 3)
        assert np.allclose(proba.sum(axis=1), 1.0)
        assert set(row.predicted) <= set(LABELS)


def test_baselines_learn_what_is_there(outcomes: dict[str, baselines.Outcome]) -> None:
    score = {name: metrics.macro_f1(LABELS, TEST.y, list(row.predicted)) for name, row in outcomes.items()}
    assert score["majority"] < 0.34
    assert score["identifier_probe"] > 0.95
    assert score["artefact_probe"] > 0.7
    assert score["lightgbm"] > 0.7
    assert score["random_forest"] > 0.7


def test_work_is_told_beforehand(outcomes: dict[str, baselines.Outcome]) -> None:
    """The estimate counts the candidates that a search then tried, and the chosen one once more."""
    data = baselines.Data(LABELS, TRAIN, VAL, 0, 1, 3)
    told = 0.0
    for name, grid in baselines._GRIDS.items():
        if name in outcomes:
            works = [candidate.work for candidate in grid(data)[: outcomes[name].params["tried"]]]
            told += sum(works) + max(works)
    assert baselines.expected_seconds(TRAIN, VAL, budget_s=3) == pytest.approx(told)
    assert baselines.expected_seconds(TRAIN, VAL, budget_s=300) > told


def test_same_seed_same_answers(outcomes: dict[str, baselines.Outcome]) -> None:
    again = baselines.run(TRAIN, VAL, TEST, labels=LABELS, budget_s=3, names=("lightgbm", "random_forest"))
    for name, row in again.items():
        assert np.array_equal(row.probabilities, outcomes[name].probabilities)


def test_a_fitted_baseline_is_a_scorer(outcomes: dict[str, baselines.Outcome]) -> None:
    fitted = outcomes["lightgbm"].fitted
    assert isinstance(fitted, baselines.Fitted)
    scores = fitted.score(TEST.records)
    assert np.allclose(scores.probabilities, outcomes["lightgbm"].probabilities)
    assert fitted.score([]).probabilities.shape == (0, 3)


def test_classes_missing_from_training_or_validation_are_no_crash() -> None:
    some = [i for i in range(150) if TRAIN.y[i] != "gamma"]
    train = baselines.Part([TRAIN.records[i] for i in some], [TRAIN.y[i] for i in some])
    rows = baselines.run(train, VAL, TEST, labels=LABELS, budget_s=1)
    assert "identifier_probe" not in rows
    assert not rows["lightgbm"].validation[:, 2].any()
    single = baselines.Part(train.records[:1], train.y[:1])
    alone = baselines.run(single, baselines.Part([], []), TEST, labels=LABELS, budget_s=1)
    assert set(alone["random_forest"].predicted) == {"alpha"}
    with pytest.raises(InputError):
        baselines.run(baselines.Part([], []), VAL, TEST, labels=LABELS)


def test_hidden_bytes_and_masked_fields_never_reach_the_features() -> None:
    one = TEST.records[0]
    other = dataclasses.replace(one, payload=(one.payload[0][:10] + b"\0" * 10 + one.payload[0][20:], one.payload[1]))
    assert one.payload != other.payload
    assert np.array_equal(features.everything([one]), features.everything([other]))
    masked_fact = dataclasses.replace(one, facts=Facts("tls", {"dns.qry.name": "x"}), masked=frozenset({"dns.qry.name"}))
    without = dataclasses.replace(masked_fact, facts=Facts("tls", {}))
    assert np.array_equal(features.headers_payload([masked_fact]), features.headers_payload([without]))


def test_identifiers_hold_only_identifiers() -> None:
    base = features.identifiers(TEST.raw, TEST.meta)
    flat = [dataclasses.replace(r, sizes=(1,) * len(r.dirs), iats=(0,) * len(r.dirs)) for r in TEST.raw]
    assert np.array_equal(base, features.identifiers(flat, TEST.meta))
    assert base.shape == (90, len(features.identifier_names()))


@pytest.mark.parametrize(
    "record",
    [
        Record(),
        Record(kind="http", text="GET /a?b=1&c=%27 HTTP/1.1\r\nHost: x\r\n\r\n"),
        Record(kind="cells", dirs=(0, 1) * 400, iats=(5,) * 800),
        Record(kind="packet", proto=17, dirs=(0,), sizes=(40,), iats=(0,), payload=(b"\xff" * 200, b"")),
        Record(proto=6, payload=(b"abc", b""), hidden=(Span(0, 1, 99, "tls.sni"), Span(1, 0, 4, "tls.sni"))),
    ],
)
def test_names_and_columns_agree_for_every_kind(record: Record) -> None:
    X = features.everything([record, record])
    assert X.shape == (2, len(features.everything_names([record])))
    assert np.isfinite(X).all()


def test_single_field_probe_finds_the_planted_column() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 5)), rng.integers(0, 3, 300)
    X[:, 3] = y * 2 + rng.normal(size=300) * 0.1
    (best, model), *others = probes.field_scores(X[:200], y[:200], X[200:], y[200:], 3)
    assert model.column == 3
    assert best > 0.98
    assert len(others) == 4
    assert all(score < 0.6 for score, _ in others)


def _requests(n: int, seed: int) -> baselines.Part:
    """Orders, half of them with a misspelt parameter name; one harmless request a hundred times."""
    rng = np.random.default_rng(seed)
    records, y = [], []
    for i in range(n):
        name = "priceA" if i % 2 else "price"
        text = f"GET http://h/shop/pay.jsp?id={rng.integers(99)}&{name}={rng.integers(9999)} HTTP/1.1"
        records.append(Record(kind="http", proto=-1, text=text))
        y.append("attack" if i % 2 else "benign")
    return baselines.Part([*records, *[records[0]] * 100], [*y, *["benign"] * 100])


def test_requests_are_told_by_what_is_written_in_them() -> None:
    train, test = _requests(60, 0), _requests(40, 1)
    rows = baselines.run(train, _requests(30, 2), test, labels=("attack", "benign"), budget_s=2)
    assert list(rows) == ["majority", "artefact_probe", "knn", "lightgbm", "random_forest", baselines.LINEAR]
    for name in ("lightgbm", "random_forest", "linear"):
        assert metrics.macro_f1(("attack", "benign"), test.y, rows[name].predicted) > 0.9, name
    assert metrics.macro_f1(("attack", "benign"), test.y, rows["majority"].predicted) < 0.6
    assert all(len(row.validation) == 130 for row in rows.values())  # of the validation rows as given: a cascade reads them
    assert len(train.distinct().records) == 60
    assert baselines.LINEAR not in baselines.run(train, test, test, labels=("attack", "benign"), names=("majority", "lightgbm"))


def _cells(n: int, seed: int) -> baselines.Part:
    """Two sites with equal cells each way in bursts of other lengths."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(n):
        length = 3 if i % 2 else 9
        dirs = tuple(d for _ in range(90 // length) for d in (0, *[1] * (length + int(rng.integers(2)))))
        records.append(Record(kind="cells", proto=-1, dirs=dirs, iats=(0, *rng.integers(0, 10**7, len(dirs) - 1).tolist())))
    return baselines.Part(records, ["b" if i % 2 else "a" for i in range(n)])


def test_cells_are_told_by_their_bursts_and_never_by_empty_columns() -> None:
    test = _cells(40, 1)
    rows = baselines.run(_cells(60, 0), _cells(20, 2), test, labels=("a", "b"), budget_s=1, names=baselines.VIEW_NAMES)
    assert not {"lightgbm_headers_payload", "lightgbm_all", baselines.LINEAR} & set(rows)
    for name in ("lightgbm_sizes_times", "random_forest", "knn"):
        assert metrics.macro_f1(("a", "b"), test.y, rows[name].predicted) > 0.9, name
    assert rows["random_forest"].params["features"] == "sizes_times"


def test_what_website_fingerprinting_counts_of_a_sequence() -> None:
    record = Record(kind="cells", proto=-1, dirs=(0, 1, 1, 1, 0, 1), iats=(0, 1000, 1000, 1000, 5000, 1000))
    row = dict(zip(features.sizes_times_names([record]), features.sizes_times([record])[0], strict=True))
    assert (row["cumulative[0]"], row["cumulative[59]"]) == (-1, 2)
    assert (row["orig_place[0]"], row["orig_place[1]"], row["orig_place[2]"]) == (0, 4, features.ABSENT)
    assert (row["orig_in_chunk[0]"], row["orig_in_chunk[1]"]) == (2, features.ABSENT)
    assert (row["bursts.resp.count"], row["bursts.resp.mean"], row["bursts.resp.max"]) == (2, 2, 3)
    assert row["orig_share"] == pytest.approx(2 / 6)
    assert [row[f"load.{name}"] for name in ("orig", "resp", "orig_part[0]", "orig_part[15]", "orig_part[16]")] == [2, 4, 1, 1, 2]
    assert row["load.log_time[0]"] == 0 < row["load.log_time[11]"]


def test_trees_are_given_the_whole_of_a_load_that_goes_on_beyond_its_bursts() -> None:
    alike = [Record(kind="cells", proto=-1, dirs=(0, 1) * 100 + (1,) * rest, iats=(5,) * (200 + rest)) for rest in (0, 300)]
    short, long = (dict(zip(features.sizes_times_names([r]), features.sizes_times([r])[0], strict=True)) for r in alike)
    assert short["sum.packets"] == long["sum.packets"] == 128
    assert (short["load.resp"], long["load.resp"]) == (100, 400)


def test_what_answers_has_learnt_validation_and_what_judges_validation_has_not() -> None:
    whole, test = part(120, 0, noise=0.0), part(60, 1, noise=0.0)

    def of(rows_of: baselines.Part, labels: set[str]) -> baselines.Part:
        rows = [k for k, label in enumerate(rows_of.y) if label in labels]
        picked = ([column[k] for k in rows] for column in (rows_of.records, rows_of.y, rows_of.raw, rows_of.meta))
        return baselines.Part(*picked)

    train, val = of(whole, {"alpha", "beta"}), of(whole, {"beta", "gamma"})
    rows = baselines.run(train, val, test, labels=LABELS, budget_s=1, names=("lightgbm", "random_forest", "knn"))
    for name, row in rows.items():
        right = np.mean([a == b == "gamma" for a, b in zip(row.predicted, test.y, strict=True)]) * 3
        assert right > 0.2, f"{name}: a label of validation alone is learnt"
        assert row.validation[:, 2].max() == 0.0, f"{name}: validation is judged by who has not learnt it"
