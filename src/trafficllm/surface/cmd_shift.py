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


def transfer(
    train: Annotated[Path, typer.Argument(metavar="TRAIN", help="The data set that the adapter was trained on.")],
    test: Annotated[Path, typer.Argument(metavar="TEST", help="A data set of another source, or of another task.")],
    adapter: Adapter = None,
    shots: Annotated[list[int] | None, typer.Option("--shots", metavar="K", min=1, help="Flows a class to learn from; repeat it.")] = None,
    draws: Annotated[int, typer.Option("--draws", metavar="N", min=1, help="Draws of each size.")] = 3,
    max_seconds: Annotated[
        float, typer.Option("--max-seconds", metavar="S", min=0.0, help="Also tune an adapter on each draw for S seconds; 0: none.")
    ] = 0.0,
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
    """One source to another, and few-shot curves beside LightGBM with the same shots."""
    from trafficllm.lifecycle.application import Application
    from trafficllm.lifecycle.transfer import transfer as judged
    from trafficllm.surface.output import emit
    from trafficllm.surface.progress import Bar

    application = Application(base=base, registry=registry)
    with Bar(quiet=quiet) as bar:
        body = judged(
            application, train, test, adapter=adapter, shots=shots or (), draws=draws, max_seconds=max_seconds, part=part, most=most,
            seed=seed, budget_s=budget, html=html, progress=bar,
        )  # fmt: skip
    emit("evaluate.transfer", body, as_json=as_json, show=_show_transfer)


def _show_transfer(body: Mapping[str, Any]) -> None:
    from trafficllm.surface.output import show_pairs, show_table

    if body["direct"]:
        rows = [["adapter", body["macro_f1"], body["ci95"]], *([n, r["macro_f1"], r["ci95"]] for n, r in body["baselines"].items())]
        show_table(("as they are", "macro-F1", "95 %"), rows, right=("macro-F1",))
    sizes = [str(row["shots"]) for row in body["shots"]]
    names = list(body["shots"][-1]["rows"])
    show_table(("flows a class", *sizes), ([n, *(row["rows"][n]["macro_f1"] for row in body["shots"])] for n in names), right=sizes)
    show_pairs({key: body[key] for key in ("gain_at_20", "n_test", "split", "mask", "leaky", "seen_by_base")})


def drift(
    data: DataSet,
    live: Annotated[
        list[Path], typer.Argument(metavar="LIVE", help="Live captures, a folder of them (by label where known), or a data set.")
    ],
    adapter: Adapter = None,
    captures: Annotated[
        Path | None,
        typer.Option("--captures", metavar="DIR", help="The folder D was built from: LIVE is then read through the same cut."),
    ] = None,
    learnt: Annotated[
        list[Path] | None,
        typer.Option("--learnt", metavar="DIR", help="Labelled captures that an update has taught the adapter: baselines learn them too."),
    ] = None,
    html: Html = None,
    part: Part = "test",
    most: Annotated[int, typer.Option("--most", metavar="N", min=0, help="Compare at most N flows a side; 0: all.")] = 2000,
    budget: Budget = 60.0,
    base: Base = "",
    registry: Registry = "",
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Is live traffic still what the adapter was trained on: which fields moved, since when, is an update due."""
    from trafficllm.lifecycle.application import Application
    from trafficllm.lifecycle.drifting import drift as judged
    from trafficllm.surface.output import emit
    from trafficllm.surface.progress import Bar

    application = Application(base=base, registry=registry)
    with Bar(quiet=quiet) as bar:
        body = judged(
            application, data, live, adapter=adapter, captures=captures, learnt=learnt or (), part=part, most=most, seed=seed,
            budget_s=budget, html=html, progress=bar,
        )  # fmt: skip
    emit("evaluate.drift", body, as_json=as_json, show=_show_drift)


def _show_drift(body: Mapping[str, Any]) -> None:
    from trafficllm.lifecycle.shift_pages import drift_marks, when
    from trafficllm.surface.output import show_pairs, show_table

    found, live = body["drift"], body["live"]
    show_table(("field", "PSI", "since"), ([r["field"], r["psi"], when(r["since"])] for r in found["fields"]), right=("PSI",))
    said = {key: found[key] for key in ("score", "p", "before", "now", "update_due")} | {"since": when(found["since"])}
    sides = {"where it was trained": body} | ({"live": live} if live else {})
    rows = ([side, "adapter", part["macro_f1"], part["ci95"]] for side, part in sides.items())
    beside = ([side, n, row["macro_f1"], row["ci95"]] for side, part in sides.items() for n, row in part["baselines"].items())
    show_table(("flows", "row", "macro-F1", "95 %"), [*rows, *beside], right=("macro-F1",))
    show_pairs({**said, "flows": body["flows"], "cut": body["cut"], "leaky": drift_marks(body)})
