"""How often an instruct base's words about a verdict table hold, and what they cost: 10 questions about each of five captures.

    python recipes/llm/words.py --base smollm2 [--out docs/results/words.json]

Verdicts are those of the shipped adapters on the embedded base; the captures are bundled ones and one of a family that no adapter learnt.
`by` counts the answers in the model's own words, by its choice among the table's sentences, and by the template; `refused` why its
own words were refused. `seconds` are the processor's for one answer. Every answer is kept in the table, so that a reader can judge it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from trafficllm.core.files import write_json
from trafficllm.infer.writer import Writer
from trafficllm.lifecycle.analyze.verdict_table import judged
from trafficllm.lifecycle.words.words import Told, in_words
from trafficllm.lifecycle.workspace import Workspace
from trafficllm.model.base.load import load_base

CAPTURES = Path(__file__).parents[2] / "src" / "trafficllm" / "data" / "captures"
TABLES = (
    ("unseen/asyncrat-2024-02-28.pcap", "MTD"),
    ("MTD/Neris", "MTD"),
    ("MTD/Gmail", "MTD"),
    ("EAC/Dropbox/telegram_videocall.pcap", "EAC"),
    ("EAC/TLS/instagram.pcap", "EAC"),
)
QUESTIONS = (
    "is anything malicious?",
    "which host is infected?",
    "how many flows are there?",
    "what is in this capture?",
    "do I have to worry?",
    "which applications are used?",
    "what is unknown here?",
    "summarise the verdicts",
    "how sure are you?",
    "how many packets does the capture have?",
)


def measure(base: str, questions: int) -> dict[str, Any]:
    """Every question about every capture."""
    workspace, writer = Workspace(), Writer(load_base(base), base)
    rows: list[dict[str, Any]] = []
    for name, task in TABLES:
        path = CAPTURES / name
        file = path if path.is_file() else min(path.glob("*.pcap"))
        table = judged(workspace, [file], task=task)
        for question in QUESTIONS[:questions]:
            begun = time.process_time()
            words = in_words(writer, Told.of_table(question, table))
            spent = time.process_time() - begun
            own = words.why.removeprefix("its own words were refused: ") if words.by != "model" else ""
            rows.append({"capture": name, "question": question, **words.as_dict(), "refused": own, "seconds": round(spent, 2)})
            print(rows[-1], file=sys.stderr, flush=True)
    seconds = [row["seconds"] for row in rows]
    return {
        "base": base,
        "answers": len(rows),
        "by": dict(Counter(row["by"] for row in rows)),
        "seconds": {"median": round(statistics.median(seconds), 2), "most": max(seconds)},
        "rows": rows,
    }


def main() -> None:
    """The table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--questions", type=int, default=len(QUESTIONS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    table = measure(options.base, options.questions)
    if options.out is not None:
        write_json(options.out, table)
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
