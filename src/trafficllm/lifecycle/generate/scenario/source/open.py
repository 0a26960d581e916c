"""Where the flows of a class come from: a written pattern, templates read from captures, or a generator of the registry."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.files import hash64
from trafficllm.core.types import FlowPlan, Record
from trafficllm.lifecycle.generate.scenario.file import Traffic
from trafficllm.lifecycle.generate.scenario.source import patterns
from trafficllm.lifecycle.generate.scenario.source.patterns import Place

if TYPE_CHECKING:
    from trafficllm.lifecycle.workspace import Workspace

DATA = Path(__file__).parents[4] / "data"
_PACKAGE = "package:"
_TEMPLATES = 2000
"""Flows kept as templates of one class: 2 KB each."""
_LONGEST_GAP = {6: 250_000_000_000, 17: 50_000_000_000}
"""ns: a longer pause ends the flow for any reader (5 minutes in TCP, 1 in UDP)."""
_TURNS = 10
"""How often a generator is asked for all flows again, where some of its flows are of ICMP."""
_TRANSPORTS = frozenset(_LONGEST_GAP)

PlanOf = Callable[[Place, random.Random], FlowPlan]
"""The next flow of a class at a place."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A source ready to write flows; `origin` says what it is in a line of the briefing."""

    origin: str
    plan: PlanOf


def open_source(traffic: Traffic, *, base: Path, workspace: Workspace | None, flows: int, seed: int) -> Opened:
    """A class's source; relative folders lie beside the scenario file (`base`), `flows` is how many a generator will be asked for.

    Raises InputError where captures hold no flow of TCP or UDP, UsageError or ArtifactError where a generator is unknown or not live.
    """
    source = traffic.source
    if source.captures is not None:
        return _templates(source.captures, base)
    if source.generator is not None:
        return _generator(source.generator, workspace, flows=flows, seed=seed)
    return Opened(f"pattern {source.pattern}", lambda place, rng: patterns.plan(source, place, rng))


# Templates


def package_captures(name: str) -> list[Path]:
    """Captures of the package: `MTD/Neris`, `EAC/TLS`, `background/zeek`. What is reserved for scoring is left out.

    Raises UsageError where the package has none of that name.
    """
    folder = DATA / name if name.startswith("background/") else DATA / "captures" / name
    plain = ".." not in Path(name).parts and not name.startswith("/")
    reserved = set()
    with (DATA / "captures" / "reserved.csv").open(encoding="utf-8", newline="") as stream:
        reserved = {row["file"] for row in csv.DictReader(stream)}
    files = sorted(path for path in folder.rglob("*.pcap*") if path.is_file()) if plain and folder.is_dir() else []
    files = [path for path in files if path.relative_to(DATA / "captures" if "captures" in path.parts else DATA).as_posix() not in reserved]
    if not files:
        hint = "package:TASK/LABEL or package:background/SOURCE, e.g. package:EAC/TLS; a folder of your own works too"
        raise UsageError("usage.scenario", f"the package has no captures of {name}", input="scenario", where="captures", hint=hint)
    return files


def _templates(name: str, base: Path) -> Opened:
    paths = package_captures(name.removeprefix(_PACKAGE)) if name.startswith(_PACKAGE) else [base / name]
    records = list(_shown_records(paths))
    if not records:
        raise InputError("input.flows", "no flow of TCP or UDP with an answer", input=name, hint="flows are templates: name other captures")
    return Opened(f"{len(records):,} flows of {name} as templates", _Templates(records).plan)


def _shown_records(paths: list[Path]) -> Iterator[Record]:
    """Flows in both directions, as generators see them: no address, name, cookie or key of the captures."""
    from trafficllm.capture.flows.assembly import read_flows
    from trafficllm.records.codec.flows import records_in
    from trafficllm.records.codec.view import shown

    count = 0
    for batch in read_flows([str(path) for path in paths]):
        for record, _ in records_in(batch, 0, len(batch)):
            if record.proto not in _TRANSPORTS or len(set(record.dirs)) < 2:
                continue
            # The names of masked fields are a set: its order, and with it the made-up bytes, would differ from process to process.
            yield replace(shown(record), masked=frozenset())
            count += 1
            if count == _TEMPLATES:
                return


class _Templates:
    """Flows of captures, one drawn for each new flow; what the captures hid is made up anew every time."""

    def __init__(self, records: list[Record]) -> None:
        self._records = records

    def plan(self, _place: Place, rng: random.Random) -> FlowPlan:
        from trafficllm.records.codec.plan import plan_of

        record = rng.choice(self._records)
        plan = plan_of(record, label="", seed=rng.randrange(1 << 62))
        return fitted(plan)


def fitted(plan: FlowPlan) -> FlowPlan:
    """The plan without pauses that would part it into two flows for a reader."""
    most = _LONGEST_GAP[plan.proto]
    if all(action.gap <= most for action in plan.actions):
        return plan
    return replace(plan, actions=tuple(replace(action, gap=min(action.gap, most)) for action in plan.actions))


# Generators


def _generator(name: str, workspace: Workspace | None, *, flows: int, seed: int) -> Opened:
    from trafficllm.infer.generator.generator import Generator
    from trafficllm.lifecycle.generate.synthesis import label_of
    from trafficllm.records.record_shape import RecordShape

    task, _, label = name.partition("/")
    if workspace is None:
        raise UsageError("usage.scenario", "a generator needs a workspace", input="scenario", where=name)
    definition = workspace.task(task)
    if definition.kind != "generation":
        raise UsageError("usage.task", f"task {definition.id} generates nothing", input="scenario", where=name, hint="see `task list`")
    version = workspace.load(definition.id)
    label = label_of(tuple(version.manifest.get("labels", definition.labels)), label, definition.id)
    generator = Generator(
        workspace.engine, definition.id, options=RecordShape.of(version.manifest).codec(), values=version.manifest.get("values")
    )
    own = hash64(f"{seed}/{name}".encode()) >> 1
    drawn = (plan for turn in range(_TURNS) for plan in generator.plans(definition, label, flows, seed=own + turn))
    plans = (plan for plan in drawn if plan.proto in _TRANSPORTS)

    def following(_place: Place, _rng: random.Random) -> FlowPlan:
        plan = next(plans, None)
        if plan is None:
            hint = "take another label, or captures"
            raise InputError("input.flows", "the generator writes no flows of TCP or UDP", input="scenario", where=name, hint=hint)
        return fitted(plan)

    return Opened(f"generator {definition.id} {version.version}, label {label}", following)
