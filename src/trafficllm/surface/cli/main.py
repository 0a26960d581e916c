"""`trafficllm`: the command line. Each noun has a file of its own; this one joins them and turns failures into exit codes."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from trafficllm import __version__
from trafficllm.core.errors import ResourceError, TrafficLLMError, UsageError
from trafficllm.surface.cli import adapter as cmd_adapter
from trafficllm.surface.cli import analyze as cmd_analyze
from trafficllm.surface.cli import capture as cmd_capture
from trafficllm.surface.cli import config as cmd_config
from trafficllm.surface.cli import data as cmd_data
from trafficllm.surface.cli import evaluate as cmd_evaluate
from trafficllm.surface.cli import generate as cmd_generate
from trafficllm.surface.cli import live as cmd_live
from trafficllm.surface.cli import mcp as cmd_mcp
from trafficllm.surface.cli import quickstart as cmd_quickstart
from trafficllm.surface.cli import serve as cmd_serve
from trafficllm.surface.cli import task as cmd_task
from trafficllm.surface.cli.bases import base as cmd_base
from trafficllm.surface.cli.bases import tokenizer as cmd_tokenizer
from trafficllm.surface.cli.bases import tune as cmd_tune
from trafficllm.surface.terminal.output import ToldError, report_failure

INTERRUPTED = 130
_NOUNS = {
    "adapter": (cmd_adapter.app, "Adapters: train, evaluate and version one for each task."),
    "base": (cmd_base.app, "Bases: by name, from a registry package or a GGUF file."),
    "capture": (cmd_capture.app, "Captures: what is in them, and whether they are valid."),
    "data": (cmd_data.app, "Data sets: leak-safe records from a folder of labelled captures."),
    "tokenizer": (cmd_tokenizer.app, "Tokenizers: extend a base with a traffic vocabulary, compare costs."),
    "tune": (cmd_tune.app, "Tuning: the plumbing under `adapter`."),
    "task": (cmd_task.app, "Tasks: the catalogue, and which one a question asks for."),
    "evaluate": (cmd_evaluate.app, "Evaluation: a data set's reserved flows beside every baseline."),
    "config": (cmd_config.app, "Configuration: one TOML file, one strict schema."),
}

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Adapt any open LLM to network traffic.", rich_markup_mode=None
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"trafficllm {__version__}")
        raise typer.Exit


@app.callback()
def _root(_show: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)] = False) -> None:
    """Adapt any open LLM to network traffic: verdicts for flows, adapters for tasks, valid synthetic captures."""


app.command("quickstart")(cmd_quickstart.quickstart)
app.command("analyze")(cmd_analyze.analyze)
app.command("demo")(cmd_analyze.demo)
app.command("chat")(cmd_analyze.chat)
app.command("live")(cmd_live.live)
app.command("embed")(cmd_analyze.embed)
app.add_typer(cmd_generate.app, name="generate")
app.command("serve")(cmd_serve.serve)
app.command("web")(cmd_serve.web)
app.command("doctor")(cmd_config.doctor)
app.add_typer(cmd_mcp.app, name="mcp", help="An MCP server: captures for the client of a language model.")
for _name, (_app, _help) in _NOUNS.items():
    app.add_typer(_app, name=_name, help=_help, no_args_is_help=True)


def _wants_json(arguments: Sequence[str]) -> bool:
    """Known before parsing, so that a usage error is an envelope too."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options


def _with_address(arguments: Sequence[str]) -> list[str]:
    """`--ray` without an address means this machine: `--ray -o out` and `--ray a.pcap` are as good as `--ray local ...`."""
    from trafficllm.lifecycle.cluster.session import LOCAL, is_address

    out: list[str] = []
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        out.append(word)
        if word == "--ray" and not is_address(following):
            out.append(LOCAL)
    return out


def _hush_stdout() -> None:
    """The reader went away (`| head`): later flushes must not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _translate(error: Exception) -> TrafficLLMError:
    """Failures of libraries and of the command parser as errors of the tree."""
    if isinstance(error, TrafficLLMError):
        return error
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # the parser's exceptions, whichever click typer carries
        return UsageError("usage", error.format_message() or "wrong usage", hint="see `trafficllm --help`")
    if isinstance(error, MemoryError):
        return ResourceError("resource.memory", "not enough memory", hint="fewer or smaller inputs, or a smaller base")
    if isinstance(error, PermissionError):
        return ResourceError(
            "resource.permission", "no permission", input=str(error.filename or ""), hint="check who may read and write it"
        )
    if isinstance(error, OSError) and error.errno in {27, 28, 122}:  # EFBIG, ENOSPC, EDQUOT
        return ResourceError(
            "resource.disk_full", error.strerror or "the disk is full", input=str(error.filename or ""), hint="free some space"
        )
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("trafficllm"):
        return ResourceError("resource.extra", f"{error.name} is not installed", hint="`trafficllm doctor` names the extra that brings it")
    hint = "this is a bug of ours: run again with TRAFFICLLM_DEBUG=1 and report what it prints"
    return TrafficLLMError("internal", f"{type(error).__name__}: {error}", hint=hint)


def _print_help(text: str) -> int:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _hush_stdout()
    return 0


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code (see `core.errors`; 130 interrupted). Never raises.

    >>> run(["task", "show", "NOPE"])
    2
    """
    as_json = _wants_json(arguments)
    try:
        words = _with_address(arguments) if "--ray" in arguments else list(arguments)
        code = app(args=words, prog_name="trafficllm", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        _hush_stdout()
        return 0
    except SystemExit as ended:
        if not isinstance(ended.__context__, BrokenPipeError):  # which typer makes an exit with 1 of
            raise
        _hush_stdout()
        return 0
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except ToldError as told:
        return report_failure(told.failure, as_json=False)
    except Exception as error:  # noqa: BLE001 - the last line of defence: one line for people, the trace on demand
        if type(error).__name__ == "NoArgsIsHelpError" and hasattr(error, "format_message"):  # a group without a word behind it
            return _print_help(str(error.format_message()))
        if os.environ.get("TRAFFICLLM_DEBUG"):
            traceback.print_exc()
        return report_failure(_translate(error), as_json=as_json)
    if code == INTERRUPTED:  # the parser turns Ctrl-C into this code
        hint = "what was finished is kept; the same command goes on from there"
        report_failure(TrafficLLMError("interrupted", "interrupted", hint=hint), as_json=as_json)
    return code if isinstance(code, int) else 0


def main() -> None:
    """The console script. Warnings of libraries are for their developers, not for the log of a pipeline."""
    if not os.environ.get("TRAFFICLLM_DEBUG"):
        warnings.simplefilter("ignore")
    sys.exit(run(sys.argv[1:]))
