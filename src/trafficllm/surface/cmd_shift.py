"""`trafficllm evaluate robust`, `transfer` and `drift`: the same task elsewhere, with little data, later."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from trafficllm.surface.cmd_evaluate import Budget, Html, Most, Part
from trafficllm.surface.options import Base, DataSet, Json, Quiet, Registry, Seed

Adapter = Annotated[
    Path | None, typer.Option("--adapter", metavar="A", help="An adapter folder; default: the task's live version.")
]
CapturesOf = Annotated[
    Path | None,
    typer.Option("--captures", metavar="DIR", help="The folder D was built from: shifts then act on its packets, read again."),
]


def robust(
    data: DataSet,
    adapter: Adapter = None,
    captures: CapturesOf = None,
    html: Html = None,
    part: Part = "test",
    most: Most = 0,
    budget: Budget = 60.0,
    base: Base = "",
    registry: Registry = "",
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Score under shifts: loss, reordering, jitter, MTU, snap length, first packets, VLAN, GRE, IPv6, NAT, forged identifiers."""
    from trafficllm.lifecycle.application import Application
    from trafficllm.lifecycle.robustness import robust as judged
    from trafficllm.surface.output import emit
    from trafficllm.surface.progress import Bar

    application = Application(base=base, registry=registry)
    with Bar(quiet=quiet) as bar:
        body = judged(
            application, data, adapter=adapter, captures=captures, part=part, most=most, seed=seed, budget_s=budget, html=html, progress=bar
        )
    emit("evaluate.robust", body, as_json=as_json, show=_show_robust)


def _show_robust(body: Mapping[str, Any]) -> None:
    from trafficllm.surface.output import show_pairs, show_table

    names = list(body["mean_loss"])
    columns = ("changed", "lost", *(cell for name in names for cell in (name, "change")))
    rows = []
    for row in body["perturbations"]:
        pairs = (cell for n in names for cell in (row["macro_f1"][n], f"{row['delta'][n]:+.3f}"))
        rows.append([row["name"], row["level"], row["changed"], row["lost"], *pairs])
    show_table(("shift", "on", *columns), rows, right=columns)
    show_pairs({key: body[key] for key in ("mean_loss", "goal", "forge", "payload", "n_test", "split", "mask", "leaky", "seen_by_base")})
