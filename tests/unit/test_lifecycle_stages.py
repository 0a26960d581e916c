"""lifecycle.stages: a finished stage is reused, a changed or interrupted one runs again."""

from __future__ import annotations

from pathlib import Path

import pytest

from trafficllm.core.types import Silent
from trafficllm.lifecycle.quickstart.stages import Stages, stage_key


def test_reuse_by_key(tmp_path: Path) -> None:
    calls: list[int] = []

    def work() -> dict[str, int]:
        calls.append(1)
        return {"n": len(calls)}

    for _ in range(2):
        stages = Stages(tmp_path, Silent())
        assert stages.run("data", stage_key(seed=0), work) == {"n": 1}
    assert stages.reused == ["data"]
    assert set(stages.seconds) == {"data"}
    assert Stages(tmp_path, Silent()).run("data", stage_key(seed=1), work) == {"n": 2}


def test_an_interrupted_stage_leaves_nothing(tmp_path: Path) -> None:
    def stopped() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stages(tmp_path, Silent()).run("tune", "k", stopped)
    again = Stages(tmp_path, Silent())
    assert again.run("tune", "k", lambda: 7) == 7
    assert again.reused == []


def test_a_lost_product_runs_again(tmp_path: Path) -> None:
    def work() -> dict[str, list[str]]:
        (tmp_path / "out.pcap").write_text("x")
        return {"made": ["out.pcap"]}

    Stages(tmp_path, Silent()).run("generate", "k", work)
    (tmp_path / "out.pcap").unlink()
    stages = Stages(tmp_path, Silent())
    stages.run("generate", "k", work)
    assert stages.reused == []
    assert (tmp_path / "out.pcap").exists()
