"""The recipe of left-out classes on a tiny task: what is learnt, what is judged, and by which figures."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import evaluate_samples
import infer_samples
import pytest

from trafficllm.model.base.load import load_base

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "adapters"
LABELS = ("Geodo", "Neris", "Virut")


@pytest.fixture(autouse=True, scope="module")
def _few_trees() -> Iterator[None]:
    with evaluate_samples.few_trees():
        yield


@pytest.fixture(scope="module", name="recipe")
def _recipe() -> Iterator[Any]:
    sys.path.insert(0, str(RECIPE))
    yield importlib.import_module("unknown")
    sys.path.remove(str(RECIPE))


def test_five_draws_leave_out_every_class(recipe: Any) -> None:
    for classes, count in ((20, 4), (7, 2), (6, 2)):
        labels = [f"class {k}" for k in range(classes)]
        draws = [recipe.left_out(labels, draw, count) for draw in range(recipe.DRAWS)]
        times = Counter(name for draw in draws for name in draw)
        assert all(len(set(draw)) == count for draw in draws)
        assert len(set(draws)) == recipe.DRAWS
        assert set(times) == set(labels)
        assert max(times.values()) - min(times.values()) <= 1


def test_a_left_out_class_is_judged_and_never_learnt(recipe: Any, captures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = ["task,label,file,part,why"]
    for label in LABELS:
        place = tmp_path / "Families" / label
        place.mkdir(parents=True)
        for number in range(4):
            (place / f"{label}_0{number}.pcap").symlink_to(captures / "MTD" / label / f"{label}_0{number}.pcap")
        listed.append(f"Families,{label},Families/{label}/{label}_03.pcap,all,test")
    (tmp_path / "RESERVED.csv").write_text("\n".join(listed) + "\n")
    monkeypatch.setitem(recipe.TASKS, "MTD", recipe.Drawn("Families", 1))
    monkeypatch.setattr(recipe, "CAP", 20)
    data = recipe.drawn_data("MTD", tmp_path, ("Virut",), tmp_path / "data")
    learnt = {label for part in ("train", "val") for label in data.labels_of(data.indices(part))}
    assert learnt == {"Geodo", "Neris"}
    rows = recipe.tested(data, ("Geodo", "Neris"))
    assert set(data.labels_of(rows["strange"])) == {"Virut"}
    assert {Path(group).name for side in rows.values() for group in data.groups(side)} == {f"{label}_03" for label in LABELS}

    base = load_base(str(infer_samples.write_base(tmp_path / "base")))
    row = recipe.as_registered(base, data, out=tmp_path / "draw", steps=2)
    assert row["left_out"] == ["Virut"]
    assert row["rows"]["strange"] == row["adapter"]["by_class"]["Virut"]["flows"] == len(rows["strange"]) > 0
    assert row["adapter"]["found"] == row["adapter"]["by_class"]["Virut"]["found"]
    assert row["adapter"]["auroc"] == pytest.approx(row["adapter"]["by_class"]["Virut"]["auroc"])
    assert 0 <= row["adapter"]["false"] <= 1
    assert set(recipe.SHOWN) <= set(row["lightgbm"])


def test_an_interval_over_draws_is_wider_where_draws_differ(recipe: Any) -> None:
    wide, narrow = recipe.over_draws([0.5, 0.7, 0.6, 0.8]), recipe.over_draws([0.64, 0.66, 0.65, 0.65])
    assert wide["mean"] == pytest.approx(narrow["mean"])
    assert wide["ci95"][0] < narrow["ci95"][0] < 0.65 < narrow["ci95"][1] < wide["ci95"][1]
    assert recipe.over_draws([0.99, 0.2])["ci95"] == [0.0, 1.0]
    assert recipe.over_draws([0.9])["ci95"] is None
