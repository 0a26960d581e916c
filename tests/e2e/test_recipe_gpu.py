"""`recipes/llm/gpu.sh` from end to end on a CPU: a tiny base, blocks of random ids, one small data set; every step must end well."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runner import REPO

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit"))  # the sample bases live there

from gguf_samples import write_gguf

from trafficllm.model.base.extend import make_traffic_base
from trafficllm.model.base.gguf import import_gguf
from trafficllm.model.base.load import default_base
from trafficllm.model.tokenizer.extend import load_auto, traffic_ids

CLASSES = ("Neris", "Miuref", "Zeus")
STEPS = {"train", "delta", "controls", *(f"probe MTD-{arm}" for arm in ("tiny", "random", "shuffled", "default"))}


def _material(place: Path, tokenizer: Any) -> None:
    """What `extend.py` keeps of its material: blocks of traffic and of English, held-out ones, and which records were seen."""
    chooser = np.random.default_rng(0)
    native, traffic = min(traffic_ids(tokenizer).values()), sorted(traffic_ids(tokenizer).values())
    for name, ids in {"traffic": traffic, "held": traffic, "keep": range(3, native), "docs": range(3, native)}.items():
        np.save(place / f"{name}.npy", chooser.choice(np.asarray(ids, dtype=np.int32), (4, 256)))
    np.save(place / "seen.npy", np.arange(3, dtype=np.uint64))
    (place / "counts.json").write_text("{}")


@pytest.mark.soak
def test_the_gpu_script_is_dry_run(cli: Any, captures: Path, tmp_path: Path) -> None:
    given, out, chosen = tmp_path / "input", tmp_path / "out", tmp_path / "captures"
    (given / "run").mkdir(parents=True)
    (given / "sets").mkdir()
    import_gguf(write_gguf(tmp_path / "tiny.gguf"), given / "bases" / "tiny-plain")
    tokens = tuple(traffic_ids(load_auto(default_base())))
    make_traffic_base(given / "bases" / "tiny-plain", tokens, given / "bases" / "tiny")
    _material(given / "run", load_auto(given / "bases" / "tiny"))
    for name in CLASSES:
        (chosen / name).mkdir(parents=True)
        for file in sorted((captures / "MTD" / name).glob("*.pcap"))[:6]:
            (chosen / name / file.name).symlink_to(file)
    cli("data", "build", str(chosen), "-o", str(given / "sets" / "MTD"), "--task", "MTD", "--quiet")
    environment = {**os.environ, "DRY": "1", "BASE": "tiny", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["bash", str(REPO / "recipes" / "llm" / "gpu.sh"), str(given), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800, env=environment)
    log = (out / "gpu.log").read_text()
    ended = {line.split(":")[0].removeprefix("step "): line.split("exit ")[1].split()[0] for line in log.splitlines() if ": exit " in line}
    assert ended == dict.fromkeys(STEPS, "0"), log + done.stderr
    assert (out / "delta" / "delta.json").is_file()
    probes = [json.loads((out / f"probes-MTD-{arm}.json").read_text()) for arm in ("tiny", "random", "default")]
    assert all(probe["ok"] for probe in probes)
    shards = sorted(out.glob("results.tar.*"))
    with (out / "whole.tar").open("wb") as whole:
        whole.writelines(shard.read_bytes() for shard in shards)
    with tarfile.open(out / "whole.tar") as tar:
        assert "./figures.json" in tar.getnames()
