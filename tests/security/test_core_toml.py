"""Configurations and task files that are made to cost: refused with a message of ours, before they do."""

from __future__ import annotations

from pathlib import Path

import pytest

from trafficllm.core.errors import TrafficLLMError
from trafficllm.core.settings import load_config
from trafficllm.core.toml import LARGEST, BadTomlError, read_toml
from trafficllm.records.catalog import read_task

BOMBS = {
    "deep arrays": "a=" + "[" * 100_000 + "]" * 100_000,
    "deep tables": "a=" + "{b=" * 20_000 + "1" + "}" * 20_000,
    "dotted keys": "[x]\n" + "k." * 100_000 + "z=1\n",
    "dotted table": "[" + "k." * 100_000 + "z]\n",
    "digits": "a=" + "9" * 20_000 + "\n",
    "size": "# " + "x" * LARGEST + "\n",
    "bytes": "a = '\udcff'",
    "no end": "a = '''",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_in_words_of_ours(name: str, tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(BOMBS[name].encode("utf-8", "surrogateescape"))
    with pytest.raises(BadTomlError) as caught:
        read_toml(file)
    assert len(str(caught.value)) <= 200
    for read in (load_config, read_task):
        with pytest.raises(TrafficLLMError) as failure:
            read(file)
        assert str(file) in failure.value.input


def test_what_fits_is_read(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("a.b.c = 1\n[x.y]\nz = ['" + "v" * 1000 + "']\n")
    assert read_toml(file) == {"a": {"b": {"c": 1}}, "x": {"y": {"z": ["v" * 1000]}}}
