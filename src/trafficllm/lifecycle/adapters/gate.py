"""The gate of an update: promoted only where new data is answered better and old data not worse.

Old and new answers to the same held-out rows are compared, resampling groups (evaluate.bootstrap.paired).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trafficllm.core import metrics
from trafficllm.core.errors import GateError
from trafficllm.lifecycle.adapters.results import GateSide

if TYPE_CHECKING:
    from trafficllm.lifecycle.adapters.results import AdapterUpdate
    from trafficllm.registry.versions import Status

MARGIN = 0.01
"""Macro-F1 that old data may lose at most: 1 point, at the lower end of a one-sided 95 % interval."""
LEAST_NEW = 10
"""Fewer new test records than this say nothing: two right answers more would be 20 points."""
LEAST_CAPTURES = 3
"""New captures of a label: one to learn, one to choose by, one to judge."""
LEAST_GROUPS = 5
"""From this many old groups on, a mean loss above the margin is believed even where the interval is wide."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Held-out rows of one kind with the live version's answers and the update's."""

    truth: Sequence[str]
    before: Sequence[str]
    after: Sequence[str]
    groups: Sequence[str]


@dataclass(frozen=True, slots=True)
class Side:
    """Macro-F1 before and after on one kind of rows; `lower` and `upper` one-sided 95 % bounds of the difference; `worst` the label that
    lost most, in words."""

    before: float
    after: float
    lower: float
    upper: float
    groups: int
    records: int
    worst: str = ""

    @property
    def gain(self) -> float:
        """What the update gained; negative where it lost."""
        return self.after - self.before

    def row(self) -> GateSide:
        """The gate's row in the answer of `adapter update`, to six decimals."""
        before, after, lower = (round(value, 6) for value in (self.before, self.after, self.lower))
        return GateSide(before=before, after=after, lower=lower, groups=self.groups, records=self.records)


def compare(labels: Sequence[str], answers: Answers, *, seed: int = 0, n_boot: int = 2000) -> Side:
    """Both versions on the same rows; with fewer than two groups the bounds are -1 and 1."""
    from trafficllm.evaluate.bootstrap import paired

    if not answers.truth:
        return Side(0.0, 0.0, -1.0, 1.0, 0, 0)
    gain = paired(labels, answers.truth, answers.before, answers.after, answers.groups, n_boot=n_boot, seed=seed)
    loss = paired(labels, answers.truth, answers.after, answers.before, answers.groups, n_boot=n_boot, seed=seed)
    return Side(gain.before, gain.after, gain.lower, -loss.lower, gain.groups, len(answers.truth), _worst(labels, answers))


def _worst(labels: Sequence[str], answers: Answers) -> str:
    """The label whose F1 fell most, with both scores; empty where none fell."""
    sides = (metrics.confusion(labels, answers.truth, given) for given in (answers.before, answers.after))
    before, after = (metrics.per_class(labels, counts) for counts in sides)
    label = max(labels, key=lambda name: before[name]["f1"] - after[name]["f1"])
    fell = before[label]["f1"] > after[label]["f1"]
    return f"{label} {before[label]['f1']:.3f} -> {after[label]['f1']:.3f}" if fell else ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Captures that would let the gate tell: so many more `new` ones and `old` ones; 0 where those at hand suffice."""

    new: int
    old: int

    def __str__(self) -> str:
        more = [f"about {count} more {kind} captures" for kind, count in (("new", self.new), ("old", self.old)) if count]
        return f"; wanted: {' and '.join(more)}" if more else ""


def wanted(old: Side, new: Side, captures: Mapping[str, int]) -> Wanted:
    """What the gate lacks; `captures`: how many new captures each label has, held-out ones too.

    New ones: three a label, so that each is learnt, chosen by and judged on, and as many as LEAST_NEW held-out records take at the
    records and the held-out share of those at hand. Old ones: as many as bring the lower bound above the margin, since it narrows with
    the square root of the groups; a loss above the margin needs LEAST_GROUPS to be believed.

    >>> wanted(Side(.9, .9, -.04, .04, 8, 90), Side(.5, .6, -1., 1., 1, 4), {"a": 2, "b": 3})
    Wanted(new=8, old=120)
    """
    lacking = sum(max(0, LEAST_CAPTURES - count) for count in captures.values())
    if new.records < LEAST_NEW:
        each, share = new.records / max(new.groups, 1) or 1.0, max(new.groups, 1) / max(sum(captures.values()), 1)
        lacking = max(lacking, math.ceil((LEAST_NEW - new.records) / each / share))
    slack = old.gain + MARGIN
    if old.lower >= -MARGIN:
        return Wanted(lacking, 0)
    if slack <= 0 or old.groups < 2:
        return Wanted(lacking, max(0, LEAST_GROUPS - old.groups))
    return Wanted(lacking, math.ceil(old.groups * (((old.gain - old.lower) / slack) ** 2 - 1)))


def decide(old: Side, new: Side) -> tuple[Status, str]:
    """`live`, `rejected` or, where the records are too few to tell, `candidate`; and why.

    >>> better, same = Side(.5, .9, .2, .6, 9, 40), Side(.9, .9, 0., 0., 9, 40)
    >>> decide(same, better)[0], decide(better, same)[0]
    ('live', 'candidate')
    >>> decide(Side(.9, .6, -.4, -.2, 9, 40), better)[0]
    'rejected'
    """
    shown_old = f"old data {old.before:.3f} -> {old.after:.3f}, lower bound {old.lower:+.3f} over {old.groups} groups"
    shown_new = f"new data {new.before:.3f} -> {new.after:.3f} on {new.records} records"
    if old.upper < -MARGIN or (old.groups >= LEAST_GROUPS and old.gain < -MARGIN):
        return "rejected", f"it forgets{f', most of all {old.worst}' if old.worst else ''}: {shown_old}"
    if new.records >= LEAST_NEW and new.gain < 0:
        return "rejected", f"it answers new data worse{f', most of all {new.worst}' if new.worst else ''}: {shown_new}"
    if new.records < LEAST_NEW:
        return "candidate", f"too few new test records to tell: {shown_new}, at least {LEAST_NEW} are needed"
    if new.gain == 0:
        return "candidate", f"new data is answered no better: {shown_new}"
    if old.lower < -MARGIN:
        return "candidate", f"too few old records to tell: {shown_old}, {-MARGIN:+.3f} is needed"
    return "live", f"{shown_new}; {shown_old}"


def raise_if_refused(answer: AdapterUpdate) -> None:
    """GateError for an update whose version was rejected; the live version is as it was."""
    if answer.status == "rejected":
        shown = f"`trafficllm adapter show {answer.task} --version {answer.version}`"
        raise GateError(
            "gate.refused",
            f"the update was refused, {answer.parent} stays live: {answer.why}",
            input=answer.task,
            where=answer.version,
            hint=f"look at the labels of the new captures; {shown} has the figures",
        )
