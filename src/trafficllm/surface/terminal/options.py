"""Options that several commands share: one spelling, one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

Json: TypeAlias = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", help="No progress bars, no lines about progress.")]
Strict: TypeAlias = Annotated[
    bool, typer.Option("--strict", help="Exit with code 8 when a link type was not read, or many frames have no flow.")
]
Captures: TypeAlias = Annotated[
    list[str], typer.Argument(metavar="FILE", help="Captures (pcap, pcapng; gz, zst, lz4), folders, globs, or - for stdin.")
]
Flows: TypeAlias = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE",
        help="Captures (pcap, pcapng; gz, zst, lz4), folders, globs, - for stdin; flow logs of Zeek, Suricata, CSV, Parquet.",
    ),
]
Folder: TypeAlias = Annotated[Path, typer.Argument(metavar="DIR", help="A folder with one sub-folder of captures a label.")]
DataSet: TypeAlias = Annotated[Path, typer.Argument(metavar="D", help="A data set made by `data build`.")]
Task: TypeAlias = Annotated[str, typer.Option("--task", metavar="ID", help="Task id (see `task list`).")]
Seed: TypeAlias = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed: the same seed gives the same result.")]
TuneSeed: TypeAlias = Annotated[
    int | None,
    typer.Option("--seed", metavar="N", min=0, help="Seed: the same seed gives the same result; default: [tune] seed of --config."),
]
Base: TypeAlias = Annotated[
    str,
    typer.Option(
        "--base", metavar="BASE", help="Traffic base: a folder, a name of `base list`, a Hub name at hand, or `default` (shipped)."
    ),
]
Words: TypeAlias = Annotated[
    str,
    typer.Option(
        "--words",
        metavar="BASE",
        help="Who puts verdicts in words, checked against them: an instruct base by name, off, or auto (default): the base in use where it "
        "has a chat template.",
    ),
]
Registry: TypeAlias = Annotated[str, typer.Option("--registry", metavar="DIR", help="Adapter registry; default: the user's data folder.")]
Ray: TypeAlias = Annotated[
    str,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="One task a file on a Ray cluster: HOST:PORT, auto (RAY_ADDRESS), or local: this machine's cores, meant without ADDRESS.",
    ),
]
Config: TypeAlias = Annotated[Path | None, typer.Option("--config", metavar="TOML", help="Configuration file (see `config show`).")]
Tasks: TypeAlias = Annotated[list[Path] | None, typer.Option("--task-file", metavar="TOML", help="A task of your own; may be repeated.")]
Out: TypeAlias = Annotated[Path, typer.Option("--out", "-o", metavar="PATH", help="Where the result goes; written whole or not at all.")]
Profile: TypeAlias = Annotated[
    str,
    typer.Option("--profile", metavar="NAME", help="Masks: strict, names, header, payload or raw; default: [records] profile of --config."),
]
MaxSeconds: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--max-seconds",
        metavar="S",
        min=1.0,
        help="Stop tuning after this many seconds and keep the best; the stages after it take their own time, told before tuning begins.",
    ),
]
Background: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(
        "--background",
        metavar="DIR",
        help="Everyday captures of other sources to learn beside the labels and the package's own; may be repeated.",
    ),
]
Positives: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(
        "--positives",
        metavar="DIR",
        help="Captures of other sources that are malicious (VPN, ...) without being of a label; may be repeated.",
    ),
]
NoBackground: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--no-background",
        help="Leave out the package's background; without --background there is none then, and more false alarms on other networks.",
    ),
]
FalsePositives: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--false-positives",
        metavar="RATE",
        min=1e-6,
        max=0.2,
        help="Share of harmless flows of networks not learnt that may be called malicious (VPN, ...); default .01.",
    ),
]
