"""Help pages and schemas are what the program says."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import jsonschema
import pytest
from cli_runner import REPO, Cli

from trafficllm.surface.docs.pages import pages


def test_generated_pages_are_committed() -> None:
    """`make docs` writes them."""
    made = pages()
    assert len(made) >= 20
    stale = [name for name, text in made.items() if not (REPO / name).is_file() or (REPO / name).read_text(encoding="utf-8") != text]
    assert stale == []


def test_no_schema_is_left_over() -> None:
    made = {name.split("/")[1] for name in pages() if name.startswith("schemas/")}
    assert {path.name for path in (REPO / "schemas").glob("*.json")} == made


def test_schemas_are_schemas_and_closed() -> None:
    for path in sorted((REPO / "schemas").glob("*.json")):
        schema = json.loads(path.read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["additionalProperties"] is False, path.name


@pytest.mark.parametrize(
    "words",
    [
        "",
        "adapter",
        "base",
        "capture",
        "data",
        "tokenizer",
        "tune",
        "task",
        "evaluate",
        "config",
        "analyze",
        "generate",
        "quickstart",
        "doctor",
    ],
)
def test_help_of_every_command(cli: Cli, words: str) -> None:
    done = cli(*words.split(), "--help")
    assert done.code == 0
    assert done.out.startswith(f"Usage: trafficllm {words}".rstrip())


def test_commands_of_the_contract_exist(cli: Cli) -> None:
    page = (REPO / "docs" / "cli.md").read_text(encoding="utf-8")
    wanted = """quickstart, analyze, generate, doctor, adapter register, adapter list, adapter show, adapter promote, adapter rollback,
        capture info, capture packets, capture flows, capture check, capture anonymize, capture convert, data build,
        tokenizer extend, tokenizer compare, tune base,
        tune instruct, tune task, task list, task show, task route, evaluate run, config show, config schema"""
    assert [name for name in wanted.replace("\n", " ").split(",") if f"## trafficllm {' '.join(name.split())}\n" not in page] == []


def test_version(cli: Cli) -> None:
    from trafficllm import __version__

    assert cli("--version").out == f"trafficllm {__version__}\n"


def test_shells_complete_commands_and_options() -> None:
    """What bash asks at a Tab, answered by the program; the script that asks is the parser's own."""
    environment = {**os.environ, "PYTHONPATH": str(REPO / "src"), "_TRAFFICLLM_COMPLETE": "complete_bash"}
    tabs = (("trafficllm cap", 1, "capture"), ("trafficllm capture anon", 2, "anonymize"), ("trafficllm analyze --fai", 2, "--fail-on"))
    for words, at, wanted in tabs:
        asked = {**environment, "COMP_WORDS": words, "COMP_CWORD": str(at)}
        done = subprocess.run([sys.executable, "-m", "trafficllm"], env=asked, capture_output=True, text=True, check=False)
        assert done.stdout.split() == [wanted], done.stderr
