"""lifecycle.quickstart.stages: a finished stage is reused, a changed or interrupted one runs again."""

from __future__ import annotations

from pathlib import Path

import pytest

from trafficllm.core.files import read_json, write_json
from trafficllm.core.results import Result
from trafficllm.core.types import Silent
from trafficllm.lifecycle.quickstart.stages import Stages, stage_key


class Count(Result):
    """A stage's result."""

    n: int


class Product(Result):
    """A stage's result that left a file."""

    made: list[str]


def test_reuse_by_key(tmp_path: Path) -> None:
    calls: list[int] = []

    def work() -> Count:
        calls.append(1)
        return Count(n=len(calls))

    for _ in range(2):
        stages = Stages(tmp_path, Silent())
        assert stages.run("data", stage_key(seed=0), Count, work) == Count(n=1)
    assert stages.reused == ["data"]
    assert set(stages.seconds) == {"data"}
    assert Stages(tmp_path, Silent()).run("data", stage_key(seed=1), Count, work) == Count(n=2)


def test_a_result_of_another_form_runs_again(tmp_path: Path) -> None:
    Stages(tmp_path, Silent()).run("data", "k", Count, lambda: Count(n=1))
    path = tmp_path / "stages" / "data.json"
    write_json(path, {**read_json(path), "result": [1, 2]})
    stages = Stages(tmp_path, Silent())
    assert stages.run("data", "k", Count, lambda: Count(n=2)) == Count(n=2)
    assert stages.reused == []


def test_an_interrupted_stage_leaves_nothing(tmp_path: Path) -> None:
    def stopped() -> Count:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stages(tmp_path, Silent()).run("tune", "k", Count, stopped)
    again = Stages(tmp_path, Silent())
    assert again.run("tune", "k", Count, lambda: Count(n=7)).n == 7
    assert again.reused == []


def test_a_lost_product_runs_again(tmp_path: Path) -> None:
    def work() -> Product:
        (tmp_path / "out.pcap").write_text("x")
        return Product(made=["out.pcap"])

    Stages(tmp_path, Silent()).run("generate", "k", Product, work)
    (tmp_path / "out.pcap").unlink()
    stages = Stages(tmp_path, Silent())
    stages.run("generate", "k", Product, work)
    assert stages.reused == []
    assert (tmp_path / "out.pcap").exists()
