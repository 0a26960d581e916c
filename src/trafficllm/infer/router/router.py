"""The router: a question's words choose the tasks, by scoring the registered task ids and "none" with the stage 1 adapter.

Only the question takes part. Captured bytes never reach it, so no payload can change the routing. Beside the LLM a linear model over the
question's phrases may be heard (`infer.wording`): `Router.of(..., wording=...)`; without it the model answers alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficllm.core.errors import UsageError
from trafficllm.core.types import F64, NONE
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.router.phrases import parts
from trafficllm.infer.router.wording import FACTS, SEVERAL, Wording
from trafficllm.records import prompts

THRESHOLD = 0.3
"""A question that names two tasks splits its probability between them, three tasks at most leave .33 each. On training authors
kept for validation, exact task sets: .577 at .2, .611 at .3, .625 at .4, where a third task can no longer be named."""
WORDING_WEIGHT = 3.0
"""How much the wording counts beside the LLM in the mean of log-odds: the best of 1, 2, 3, 4 and 6 on authors that the base has not read
whose kinds of question were left out of the wording's training (`recipes/instructions/left_out.py`: .721, .733, .734, .733, .732)."""
SURE = 0.999
"""The LLM's probabilities are kept within 1 - SURE and SURE: one overconfident answer must not outweigh all words."""
SEVERAL_FROM = -2.0
"""From these log-odds on a question may ask for more than one task: most ask for one, and a second task beside it is then an error."""
FURTHER = -1.0
"""Log-odds that a task beside the likeliest must reach. Both by five folds over the training authors, wording alone
(`recipes/instructions/wording.py --folds`): all questions .909, those for several tasks .72; without the first rule .871 and .80."""
PARTED_FROM = -6.0
"""From these log-odds on the parts of a question are heard one by one: two that name two tasks clearly ask for both, though the words of
the whole do not say "several". Where no list of requests was taught, such questions went .384 -> .700; others lost .002."""
PART = 2.0
"""Log-odds that a part must reach for a task beside the likeliest one."""
PART_OF_FIRST = 1.0
"""Log-odds for the likeliest task that one part must reach: else the question was parted where it belongs together."""
PART_WHOLE = -4.0
"""Log-odds that the whole question's words must give to a task that a part names."""
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Route:
    """Which tasks a question asks for, likeliest first, and the probability that it asks for none.

    `facts` is the probability that it asks for facts of a whole capture (how many packets, who sends most), which are read and not
    judged: then no task answers. None where no wording is heard.
    """

    tasks: tuple[tuple[str, float], ...]
    none: float
    facts: float | None = None

    def row(self) -> dict[str, Any]:
        """The `task route --json` object."""
        told = {} if self.facts is None else {"facts": self.facts}
        return {"tasks": [{"id": name, "probability": p} for name, p in self.tasks], "none": self.none, **told}


class Router:
    """Routes questions over `tasks` (ids) with a stage 1 adapter.

    A task is chosen when its probability reaches `threshold`; nothing is chosen when "none" is the likeliest. With `wording` the
    probabilities are each task's own (one-vs-rest) and need not add up to 1; tasks that no model of it has a column for keep the LLM's.
    UsageError for a threshold outside (0, 1].
    """

    def __init__(
        self,
        engine: Engine,
        adapter: str,
        tasks: Sequence[str],
        threshold: float = THRESHOLD,
        *,
        temperature: float = 1.0,
        wording: Sequence[Wording] = (),
        weight: float = WORDING_WEIGHT,
    ) -> None:
        if not 0 < threshold <= 1:
            raise UsageError("usage.option", "the routing threshold lies between 0 and 1", input=str(threshold))
        self.engine = engine
        self.adapter = adapter
        self.tasks = tuple(tasks)
        self.threshold = threshold
        self.calibration = {"temperature": temperature}
        self.wording = tuple(wording)
        self.weight = weight

    @classmethod
    def of(
        cls,
        engine: Engine,
        adapter: str,
        manifest: Mapping[str, Any],
        tasks: Sequence[str] | None = None,
        *,
        wording: Sequence[Wording] = (),
    ) -> Router:
        """A router as its version's manifest describes it: tasks (unless given), threshold and temperature."""
        names = [name for name in manifest.get("labels", ()) if name != NONE] if tasks is None else tasks
        settings = {key: manifest[key] for key in ("threshold", "temperature") if key in manifest}
        return cls(engine, adapter, names, **settings, wording=wording)

    def route(self, text: str) -> Route:
        """The tasks one question asks for."""
        return next(self.stream([text]))

    def stream(self, texts: Iterable[str]) -> Iterator[Route]:
        """Routes of many questions, in order, a batch at a time."""
        return (combined for _, combined in self.both(texts))

    def both(self, texts: Iterable[str]) -> Iterator[tuple[Route, Route]]:
        """As `stream`, each question's route by the model alone before the one that is answered; the same where no wording is heard."""
        source = iter(texts)
        while chunk := list(islice(source, _CHUNK)):
            p = self.probabilities(chunk)
            alone = [self._choose(row) for row in p.tolist()]
            yield from zip(alone, self.combined(p, chunk) if self.wording else alone, strict=True)

    def probabilities(self, texts: Sequence[str]) -> F64:
        """The model's own answer: probability of each task and "none" [n, tasks + 1]; rows add up to 1."""
        from trafficllm.infer.calibration import apply

        questions = [prompts.routing(text) for text in texts]
        return apply(self.calibration, self.engine.score(questions, (*self.tasks, NONE), adapter=self.adapter).logits)

    def _choose(self, p: Sequence[float]) -> Route:
        *ours, none = p
        ranked = sorted(zip(self.tasks, ours, strict=True), key=lambda pair: (-pair[1], pair[0]))
        if not ranked or none >= ranked[0][1]:
            return Route((), none)
        # The likeliest task is always chosen: with many tasks even a clear question may stay below the threshold.
        return Route(tuple(pair for k, pair in enumerate(ranked) if k == 0 or pair[1] >= self.threshold), none)

    def combined(self, p: F64, texts: Sequence[str]) -> list[Route]:
        """The routes of `texts` by the model's probabilities `p` [n, tasks + 1] and the wording together; NaN where no model was asked."""
        z, several, facts = self._opinion(texts)
        bounded = np.clip(p, 1 - SURE, SURE)
        model = np.log(bounded) - np.log1p(-bounded)
        both = np.where(np.isnan(z), model, np.where(np.isnan(model), z, (model + self.weight * z) / (1 + self.weight)))
        further = (both >= FURTHER) & (several >= SEVERAL_FROM)[:, None]
        for row in np.flatnonzero(several >= PARTED_FROM).tolist():
            further[row] |= self._named_by_parts(texts[row], int(both[row].argmax()), z[row])
        told = [None if np.isnan(value) else float(1 / (1 + np.exp(-value))) for value in facts]
        return [self._take(row, more, fact) for row, more, fact in zip(both.tolist(), further.tolist(), told, strict=True)]

    def _named_by_parts(self, text: str, first: int, whole: F64) -> NDArray[np.bool_]:
        """Which tasks the parts of a question name beside the one at `first` [tasks + 1]; `whole` are the whole question's log-odds."""
        named, said = np.zeros(len(whole), bool), parts(text)
        if not said:
            return named
        z = np.nan_to_num(self._opinion(said)[0], nan=-np.inf)
        best = z.argmax(axis=1)
        height = z[np.arange(len(said)), best]
        if ((best == first) & (height >= PART_OF_FIRST)).any():
            named[best[height >= PART]] = True
        return named & (whole >= PART_WHOLE)

    def _opinion(self, texts: Sequence[str]) -> tuple[F64, F64, F64]:
        """Log-odds of each task and "none" by its wording [n, tasks + 1], NaN where no model has a column; of asking for several [n];
        of asking for facts of a capture [n], NaN where no model has that column.

        A question for a task that cannot be routed to counts as "none"; one that a task learnt later claims does not, because "none" was
        learnt before there was that task.
        """
        labels = (*self.tasks, NONE)
        z, several = np.full((len(texts), len(labels)), np.nan), np.full(len(texts), -np.inf)
        facts = np.full(len(texts), np.nan)
        claimed = np.full(len(texts), -np.inf)
        for model in self.wording:
            scores = model.log_odds(texts)
            if NONE not in model.columns and scores.size:
                claimed = np.maximum(claimed, scores.max(axis=1))
            for name, column in zip(model.columns, scores.T, strict=True):
                if name == SEVERAL:
                    several = column
                elif name == FACTS:
                    facts = column
                else:
                    place = labels.index(name) if name in labels else len(labels) - 1
                    z[:, place] = np.fmax(z[:, place], column)
        z[:, -1] = np.minimum(z[:, -1], -claimed)
        return z, several, facts

    def _take(self, log_odds: Sequence[float], further: Sequence[bool], facts: float | None) -> Route:
        *ours, none = (1 / (1 + float(np.exp(-value))) for value in log_odds)
        ranked = sorted(zip(self.tasks, ours, further[:-1], strict=True), key=lambda ranked_task: (-ranked_task[1], ranked_task[0]))
        # Facts of a capture are read, not judged: where they are likelier than any task, no task is asked for.
        if not ranked or none >= ranked[0][1] or (facts or 0) > ranked[0][1]:
            return Route((), none, facts)
        return Route(tuple((name, p) for k, (name, p, more) in enumerate(ranked) if k == 0 or more), none, facts)
