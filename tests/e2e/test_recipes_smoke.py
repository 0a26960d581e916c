"""Every recipe starts: its options are read and its help is shown, all scripts in one process of Python. Those that need neither developer
data nor training run on small data; tests/unit/test_recipes_*.py and test_instructions.py run the others in small."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path for path in (REPO / "recipes").rglob("*.py") if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8"))
START = """
import contextlib, io, json, runpy, sys
before, ends = sys.path[:], {}
for script in sys.argv[1:]:
    known = set(sys.modules)
    sys.path[:] = [script.rpartition("/")[0], *before]
    sys.argv = [script, "--help"]
    shown = io.StringIO()
    try:
        with contextlib.redirect_stdout(shown):
            runpy.run_path(script, run_name="__main__")
        ends[script] = "went on without arguments to read"
    except SystemExit as end:
        ends[script] = "" if not end.code and "usage:" in shown.getvalue() else f"ended with {end.code}"
    except Exception as error:
        ends[script] = f"{type(error).__name__}: {error}"
    for name in set(sys.modules) - known:  # scripts of two folders may share a name
        if str(getattr(sys.modules[name], "__file__", "")).startswith(sys.path[0]):
            del sys.modules[name]
print(json.dumps(ends))
"""


def test_every_recipe_shows_its_help() -> None:
    assert len(SCRIPTS) >= 28
    command = [sys.executable, "-c", START, *map(str, SCRIPTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400, cwd=REPO)
    assert done.returncode == 0, done.stderr[-2000:]
    ends = json.loads(done.stdout.splitlines()[-1])
    assert {str(Path(script).relative_to(REPO)): end for script, end in ends.items() if end} == {}


def _run(script: str, *words: object) -> str:
    command = [sys.executable, str(REPO / "recipes" / script), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module", name="data")
def _data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve bundled captures under the name of a folder that the recipes know."""
    folder = tmp_path_factory.mktemp("data")
    for label in ("Gmail", "Zeus"):
        source = REPO / "src" / "trafficllm" / "data" / "captures" / "MTD" / label
        (folder / "MTD_ustc2016" / label).mkdir(parents=True)
        for path in sorted(source.glob("*.pcap"))[-5:]:
            shutil.copy(path, folder / "MTD_ustc2016" / label)
    return folder


def test_audits_in_small(data: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- table: made by recipes/audits/audit.py -->\n<!-- end of table -->\n")
    _run("audits/audit.py", data, "-o", tmp_path, "--table", page)
    assert json.loads((tmp_path / "audit_MTD_ustc2016.json").read_text())["baselines"]["majority"]["macro_f1"] > 0
    assert "MTD_ustc2016" in page.read_text()


def test_mask_cost_in_small(data: Path) -> None:
    assert _run("audits/mask_cost.py", data / "MTD_ustc2016").startswith("MTD_ustc2016 train ")


def test_grid_of_records_in_small(data: Path, tmp_path: Path) -> None:
    _run("records/grid.py", data, "-o", tmp_path / "grid.json", "--work", tmp_path, "--only", "MTD_ustc2016", "--point", "4,32")
    point = json.loads((tmp_path / "grid.json").read_text())["sets"]["MTD_ustc2016"]["points"]["4,32"]
    assert 0 < point["macro_f1"] <= 1


def test_a_tokenizer_pipeline_in_small(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.txt.gz", "wt") as stream:
        stream.write("The quick brown fox reads RFC 793 over TCP port 443.\n" * 500)
    _run("tokenizers/kinds.py", "--corpus", tmp_path, "--out", tmp_path / "kinds", "--vocab", 400, "--kinds", "gpt2")
    assert json.loads((tmp_path / "kinds" / "gpt2" / "plain" / "tokenizer.json").read_text())["model"]["type"] == "BPE"


def test_the_page_of_tokenizers_is_that_of_the_results(tmp_path: Path) -> None:
    _run("tokenizers/page.py", REPO / "docs" / "results", tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == (REPO / "docs" / "tokenizers.md").read_text()
