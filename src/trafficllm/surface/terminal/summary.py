"""What `analyze` shows a person: counts by verdict, the notable flows first, who talked to whom, frames to open."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from trafficllm.capture.flows.rows import endpoint
from trafficllm.core.escape import for_terminal
from trafficllm.lifecycle.analyze.sentences import WORDS, most_suspicious, summary

if TYPE_CHECKING:
    from trafficllm.capture.files.read import Skipped
    from trafficllm.core.errors import TrafficLLMError
    from trafficllm.infer.detector import VerdictRow
    from trafficllm.lifecycle.analyze.analysis import Analysis
    from trafficllm.lifecycle.analyze.hosts import HostRow
    from trafficllm.lifecycle.analyze.results import Analyze
    from trafficllm.lifecycle.words.results import Words
    from trafficllm.lifecycle.workspace import Workspace

_SHOWN = 20
_FRAMES = 6
_PACKETS_FROM, _COMMUNITY_FROM = 90, 130
"""Columns a terminal must have before these are shown."""

_AT_ONE = frozenset({"packet", "payload", "facts", "service"})


class Summary:
    """Counts of verdicts and the most notable flows; memory does not grow with the capture."""

    def __init__(
        self, analysis: Analysis, skipped: Skipped | None = None, *, suspicious: int = 0, again: str = "", registry: str = ""
    ) -> None:
        """`suspicious`: how many of the most suspicious hosts were asked for. `again`: the command line so far, for the next one to be
        shown. `registry`: where adapters lie, to be named; empty for the user's own folder."""
        self.again, self.registry = again, registry
        self.adapters: dict[str, str] = {}
        self.analysis = analysis
        self.skipped = skipped
        self.suspicious = suspicious
        self.flows = 0
        self.interrupted = False
        self.words: Words | None = None
        self.verdicts: Counter[tuple[str, str]] = Counter()
        self.answers: Counter[tuple[str, str, str]] = Counter()
        self.sureness: Counter[tuple[str, str, str]] = Counter()
        self.files: set[str] = set()
        self._notable: list[tuple[tuple[float, float], int, VerdictRow]] = []
        self._seen = 0

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Count a batch of verdicts."""
        self.flows += len(rows)
        for row in rows:
            verdict = (str(row["task"]), str(row["label"]))
            self.verdicts[verdict] += 1
            both = (*verdict, str(row["umbrella"] or ""))
            self.answers[both] += 1
            self.sureness[both] += row["confidence"]
            self.files.add(str(row["file"]))
        for row in rows[:: max(1, len(rows) - 1)]:
            more = "" if row["source"] == "registry" else f", {row['source']}"
            self.adapters[str(row["adapter"])] = f"{row['version']}{more}"

    def keep(self, rows: Sequence[VerdictRow]) -> None:
        """Remember the notable flows among these: by severity, then confidence, then order; of several tasks, those that note any."""
        noting = [task for task, names in self.analysis.notable.items() if names]
        for row in rows:
            if noting and len(self.analysis.tasks) > 1 and row["task"] not in noting:
                continue
            self._seen += 1
            severity = self.analysis.severity(row)
            item = ((-float(severity or 9), float(row["confidence"])), -self._seen, row)
            if len(self._notable) < _SHOWN:
                heapq.heappush(self._notable, item)
            else:
                heapq.heappushpop(self._notable, item)

    def above(self) -> dict[str, dict[str, int]]:
        """Flows by the answer above their labels (malicious, benign, unknown...), for the tasks that have one."""
        out: dict[str, Counter[str]] = {}
        for (task, _, answer), count in self.answers.items():
            if answer:
                out.setdefault(task, Counter())[answer] += count
        return {task: dict(sorted(counts.items(), key=lambda item: -item[1])) for task, counts in sorted(out.items())}

    def result(self) -> Analyze:
        """The object of `analyze --json`."""
        from trafficllm.lifecycle.analyze.captures import failures
        from trafficllm.lifecycle.analyze.results import Analyze

        verdicts: dict[str, dict[str, int]] = {}
        for (task, label), count in self._ordered():
            verdicts.setdefault(task, {})[label] = count
        return Analyze(
            flows=self.flows,
            tasks=list(self.analysis.tasks),
            route=self.analysis.route,
            verdicts=verdicts,
            above=self.above(),
            hosts=self.analysis.hosts.counts(),
            notable_hosts=self.analysis.notable_hosts()[:_SHOWN],
            notable=self.notable(),
            interrupted=self.interrupted,
            failed=failures(self.skipped),
            capture=self.analysis.counts(),
            filters=self.analysis.filters,
            overview=self.analysis.overview(),
            answer=self.answer(),
            suspicious=self._suspicious(),
            **({"words": self.words} if self.words is not None else {}),
        )

    def put_in_words(self, workspace: Workspace, question: str) -> None:
        """Let the workspace's instruct base, if it has one, answer a question from the verdicts counted so far."""
        from trafficllm.lifecycle.words.words import Told, words_by

        if question:
            analysis = self.analysis
            self.words = words_by(workspace, lambda: Told.of(question, analysis, self.answers, analysis.notable_hosts(), analysis.counts()))

    def _suspicious(self) -> list[HostRow]:
        return self.analysis.hosts.rows()[: self.suspicious] if self.suspicious else []

    def answer(self) -> str:
        """Who the most suspicious host is where that was asked, else a sentence a task."""
        if not self.suspicious:
            return " ".join(self.sentences())
        return most_suspicious(self._suspicious(), self.analysis.raises_event)

    def _failed(self) -> Sequence[TrafficLLMError]:
        return self.skipped.errors if self.skipped is not None else ()

    def notable(self) -> list[VerdictRow]:
        """The kept flows, the most notable first."""
        return [row for _, _, row in sorted(self._notable, key=lambda item: item[:2], reverse=True)]

    def show(self, *, as_json: bool) -> None:
        """Print the summary: two tables, or one JSON object."""
        from trafficllm.surface.terminal.output import emit

        emit("analyze", self.result(), as_json=as_json, show=lambda _: self._show())

    def _heading(self) -> str:
        flows = self.flows // max(1, len(self.analysis.tasks))
        files = f"{len(self.files):,} captures" if len(self.files) != 1 else next(iter(_short_names(self.files).values()))
        if not self.flows and self.analysis.filters:
            return f"No flow is {self.analysis.filters}"
        hosts = self.analysis.hosts.counts()
        answers = "; ".join(f"{task}: {_counted(part)}{_of_hosts(hosts.get(task, {}))}" for task, part in self.above().items())
        missing = f", {len(self._failed()):,} more not read" if self._failed() else ""
        cut = ", interrupted: what was done until then" if self.interrupted else ""
        files += f", {self.analysis.filters}" if self.analysis.filters else ""
        return f"{flows:,} flows of {files}{missing}{cut}" + (f". {answers}" if answers else "")

    def _show(self) -> None:
        from trafficllm.surface.terminal.output import note, out, show_table

        if self.suspicious:
            print(for_terminal(self.answer()))
            _show_hosts(self._suspicious())
            return
        if overview := self.analysis.overview():
            print(for_terminal(overview))
        for line in self.sentences():
            print(for_terminal(line))
        if hosts := self.analysis.notable_hosts()[:_SHOWN]:
            _show_hosts(hosts)
        self._show_counts()
        shown = self.notable()
        if shown:
            cells = _cells(out().width, several=len(self.files) > 1, why=any(row["evidence"] for row in shown))
            show_table(
                list(cells),
                [[cell(row) for cell in cells.values()] for row in shown],
                right=("confidence", "packets"),
                whole=("from", "to"),
            )
        if self._seen > _SHOWN:
            note(f"the {_SHOWN} most notable of {self._seen:,} flows: choose -f jsonl, csv, parquet, zeek, eve or ecs for all of them")
        for line in self._closing():
            print(for_terminal(line))
        if self.words is not None:
            from trafficllm.lifecycle.chat.wording import in_words

            print(for_terminal(in_words(self.words)))

    def _show_counts(self) -> None:
        from trafficllm.surface.terminal.output import show_table

        whole = Counter(task for task, _ in self.verdicts.elements())
        rows = [
            [task, label, answer, count, f"{count / whole[task]:.1%}", self.sureness[task, label, answer] / count]
            for (task, label, answer), count in sorted(self.answers.items(), key=lambda item: (item[0][0], -item[1], item[0][1:]))
        ]
        names = ("task", "verdict", "means", "flows", "share", "mean confidence")
        show_table(names, rows, title=self._heading(), right=names[3:])

    def sentences(self) -> list[str]:
        """A sentence a task: what the flows are, or whether any is what the task looks for and which hosts opened those."""
        return summary(self.analysis, self.answers, self.analysis.notable_hosts()) if self.analysis.asks else []

    def _closing(self) -> list[str]:
        judged = ", ".join(f"{task} {version}" for task, version in sorted(self.adapters.items()))
        lines = [f"Judged by {judged}; adapters in {self.registry}"] if judged and self.registry else []
        if self.again and self.flows:
            worst = next((row for row in self.notable() if self.analysis.severity(row) == 1), None)
            more = f"--task {worst['task']} --only {worst['label']} --explain" if worst is not None else '-q "who are the top talkers?"'
            lines.append(f"Next: {self.again} {more}")
        return lines

    def show_hosts(self, rows: Sequence[HostRow]) -> None:
        """Print one table of hosts, at most _SHOWN, in their order."""
        from trafficllm.surface.terminal.output import note

        _show_hosts(rows[:_SHOWN], title=self._heading())
        if len(rows) > _SHOWN:
            note(f"the first {_SHOWN} of {len(rows):,} hosts: choose -f jsonl, csv, parquet, zeek, eve or ecs for all of them")

    def _ordered(self) -> list[tuple[tuple[str, str], int]]:
        return sorted(self.verdicts.items(), key=lambda item: (item[0][0], -item[1], item[0][1]))


def _short_names(files: Iterable[str]) -> dict[str, str]:
    """Each file by the end of its path that tells it from the others: a path is never cut in its middle."""
    from pathlib import PurePath

    parts = {name: PurePath(name).parts for name in files}
    short = {}
    for name, path in parts.items():
        others = [other for key, other in parts.items() if key != name]
        deep = next((k for k in range(1, len(path)) if all(other[-k:] != path[-k:] for other in others)), len(path))
        short[name] = str(PurePath(*path[-deep:])) if path else name
    return short


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _show_hosts(rows: Sequence[HostRow], title: str = "") -> None:
    from trafficllm.surface.terminal.output import show_table

    names: tuple[str, ...] = ("host", "means", "probability", "flows", "verdicts of its flows")
    lines = [[row["host"], row["umbrella"], row["umbrella_probability"], row["flows"], _counted(row["labels"])] for row in rows]
    short = _short_names({row["file"] for row in rows})
    if len(short) > 1:
        names = (*names, "file")
        lines = [[*line, short[row["file"]]] for line, row in zip(lines, rows, strict=True)]
    show_table(names, lines, title=title, right=("probability", "flows"))


def _of_hosts(counts: Mapping[str, int]) -> str:
    return f" (hosts: {_counted(counts)})" if counts else ""


def _cells(width: int, *, several: bool, why: bool) -> dict[str, Callable[[Mapping[str, Any]], Any]]:
    """Columns of the notable flows that this width has room for, each with how a row fills it."""
    cells: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        "verdict": lambda row: row["label"],
        "confidence": lambda row: row["confidence"],
        "from": lambda row: endpoint(row["orig_h"], row["orig_p"]),
        "to": lambda row: endpoint(row["resp_h"], row["resp_p"]),
    }
    if width >= _PACKETS_FROM:
        cells["proto"] = lambda row: row["proto"]
        cells["packets"] = lambda row: row["packets"]
    if why:
        cells["rests on (and loses without it)"] = lambda row: "; ".join(map(in_words, row["evidence"])) or _frames(row)
    else:
        cells["frames"] = _frames
    if several:
        cells["file"] = lambda row: row["file"].rpartition("/")[2]
    if width >= _COMMUNITY_FROM:
        cells["community id"] = lambda row: row["community_id"]
    return cells


def _frames(row: Mapping[str, Any]) -> str:
    """Frames to open: those the verdict rests on where it was explained, else the first ones; runs as 3-7."""
    frames = sorted({item["frame"] for item in row["evidence"]}) or sorted(row["frames"])
    return runs(frames[:_FRAMES])


def in_words(part: Mapping[str, Any]) -> str:
    """One part that a verdict rests on, the frame to open in Wireshark, and the probability lost without it.

    >>> in_words({"frame": 17, "field": "packet", "weight": 0.412})
    'packet in frame 17 (-0.41)'
    >>> in_words({"frame": 9, "field": "iats", "weight": 0.1})
    'times between packets, from frame 9 (-0.10)'
    """
    name = WORDS.get(part["field"], part["field"])
    where = f"in frame {part['frame']}" if part["field"] in _AT_ONE else f"from frame {part['frame']}"
    joint = " " if part["field"] == "packet" else ", "
    return f"{name}{joint}{where} (-{part['weight']:.2f})"


def runs(numbers: Sequence[int]) -> str:
    """Rising numbers, neighbours as a range.

    >>> runs([3, 4, 5, 9])
    '3-5, 9'
    """
    starts = [k for k, _ in enumerate(numbers) if k == 0 or numbers[k] != numbers[k - 1] + 1]
    parts = [numbers[start:stop] for start, stop in pairwise([*starts, len(numbers)])]
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
