"""Writing packets: the generator against free text generation of the same packets by the same model plus scapy; medians of 5 with range.

    python bench/bench_generation.py [--base PATH] [--adapter FOLDER] [--flows 128] [--threads 1] [--json] [--out FILE]

Sides, in turn so that a noisy moment meets all; each goes from the label to packets on disk:

- `ours`: flows under the grammar, compiled, written as pcap.
- `text_1`: each packet as text, one at a time with a key-value cache, then built by scapy: how the original system generates.
- `text_batch`: the same, 32 packets at a time, in batches of like length: the best that free text can do.

The text side writes exactly the packets that `ours` made: tshark-named header fields, and of the payload only the bytes that the model
itself chose (not the filler), in hex. It is told how long each text is, so it writes no token too many, and its text is taken to be
well-formed. Without `--adapter` one is tuned for a few steps: no side's speed depends on how good the model is, but flows of an
untrained model would be too odd.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from bench_engine import CAPTURES, Texts, median, rounds, table

from trafficllm.capture.compile.plans import compile_flows
from trafficllm.capture.files.write import write_capture
from trafficllm.core.settings import TuneOptions
from trafficllm.core.types import FlowPlan
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.generator.generator import BATCH_FLOWS, Generator
from trafficllm.lifecycle.adapters.learn_generator import generator_data
from trafficllm.model.base.load import load_base
from trafficllm.model.tuning.job import tune_generation
from trafficllm.records.catalog import get_task
from trafficllm.records.dataset.dataset import BuildOptions, build_dataset, load

TASK, LABEL = get_task("MTG"), "Neris"
RUNS, ROWS, SINGLES, BATCHED, STEPS = 5, 32, 2, 32, 60


def adapter_of(base: Any, place: Path, steps: int) -> Path:
    """A generation adapter after a few steps on the bundled captures."""
    build_dataset(
        CAPTURES / "MTD", task=TASK, out=place / "data", options=BuildOptions(reserved=CAPTURES / "reserved.csv", cap=steps, seed=0)
    )
    data = generator_data(load(place / "data"), task=TASK, labels=[LABEL])
    tune_generation(base, data, place / "adapter", TuneOptions(max_steps=steps, looks=0))
    return place / "adapter"


def texts(plans: Sequence[FlowPlan]) -> list[str]:
    """One text a packet of these plans: header fields under tshark's names, the payload bytes that the plan spells out."""
    out = []
    for plan in plans:
        for action in plan.actions:
            sides = ("192.0.2.1", "198.51.100.1") if action.dir == 0 else ("198.51.100.1", "192.0.2.1")
            ports = (plan.orig_p, plan.resp_p) if action.dir == 0 else (plan.resp_p, plan.orig_p)
            head = f"frame.time_delta: {action.gap / 1e9:.6f}, ip.len: {action.size + 40}, ip.ttl: {action.ttl}, ip.proto: {plan.proto}, "
            head += f"ip.src: {sides[0]}, ip.dst: {sides[1]}, tcp.srcport: {ports[0]}, tcp.dstport: {ports[1]}, "
            head += f"tcp.flags: 0x{action.flags:04x}, tcp.seq: 1, tcp.ack: 1, tcp.window_size: {action.window}, tcp.len: {action.size}"
            out.append(head + (f", tcp.payload: {action.payload.hex(':')}" if action.payload else ""))
    return out


def written(text: str) -> Any:
    """A text as a scapy packet."""
    from scapy.layers.inet import IP, TCP
    from scapy.layers.l2 import Ether
    from scapy.packet import Raw

    fields = dict(part.split(": ", 1) for part in text.split(", "))
    port = {name: int(fields[f"tcp.{name}port"]) % 65536 for name in ("src", "dst")}
    layer = TCP(sport=port["src"], dport=port["dst"], flags=int(fields["tcp.flags"], 16), window=int(fields["tcp.window_size"]) % 65536)
    ip = IP(src=fields["ip.src"], dst=fields["ip.dst"], ttl=max(int(fields["ip.ttl"]), 1))
    return Ether() / ip / layer / Raw(bytes.fromhex(fields.get("tcp.payload", "").replace(":", "")))


class Text:
    """Free text generation of given packets."""

    def __init__(self, texts: Texts, packets: Sequence[str], place: Path) -> None:
        self.texts, self.place = texts, place
        self.prompt = texts.base.tokenizer(f"Please generate a packet of {LABEL} traffic.\n")["input_ids"]
        lengths = [len(ids) for ids in texts.base.tokenizer(list(packets))["input_ids"]]
        room = int(texts.model.config.max_position_embeddings) - len(self.prompt)
        kept = [(length, text) for length, text in zip(lengths, packets, strict=True) if length <= room]
        step = max(len(kept) // BATCHED, 1)
        self.packets = kept[::step][:BATCHED]
        self.singles = self.packets[:: max(len(self.packets) // SINGLES, 1)][:SINGLES]

    def run(self, packets: Sequence[tuple[int, str]], rows: int) -> None:
        """Generate as many tokens as each text has, then build and write the packets with scapy."""
        from scapy.utils import wrpcap

        packets = sorted(packets)
        for first in range(0, len(packets), rows):
            part = packets[first : first + rows]
            tokens = torch.tensor([self.prompt] * len(part))
            length = max(n for n, _ in part)
            with self.texts.using("bench") as model:
                model.generate(
                    input_ids=tokens,
                    attention_mask=torch.ones_like(tokens),
                    min_new_tokens=length,
                    max_new_tokens=length,
                    do_sample=True,
                    use_cache=True,
                    pad_token_id=0,
                )
        wrpcap(str(self.place / "text.pcap"), [written(text) for _, text in packets])


def measure(base_name: str, flows: int, threads: int, adapter: Path | None, runs: int = RUNS) -> dict[str, Any]:
    """All sides; packets a second of each, and the ratios of ours to them."""
    torch.set_num_threads(threads)
    base, steps = load_base(base_name), min(STEPS, 2 * flows)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        engine = Engine(base)
        learnt = adapter or adapter_of(base, place, steps)
        engine.add_adapter("bench", learnt)
        generator = Generator(engine, "bench")
        packets: list[int] = []

        def ours() -> None:
            plans = generator.plans(TASK, LABEL, flows, seed=1)
            batch = compile_flows(list(plans), seed=1, start=10**18, spread=10**11)
            packets.append(write_capture(place / "ours.pcap", [batch]))

        text = Text(Texts(base_name, learnt), texts(list(generator.plans(TASK, LABEL, flows, seed=1))), place)
        before = generator.sampled
        sides = {"ours": ours, "text_1": lambda: text.run(text.singles, 1), "text_batch": lambda: text.run(text.packets, ROWS)}
        spent = rounds(sides, runs)
        tokens = (generator.sampled - before) / (runs + 1)
    sizes = {"ours": packets[0], "text_1": len(text.singles), "text_batch": len(text.packets)}
    seconds = {name: median(values, 1 / sizes[name]) for name, values in spent.items()}
    ratios = {
        name: {
            "median": seconds[name]["median"] / seconds["ours"]["median"],
            "range": [min(_ratios(spent, sizes, name)), max(_ratios(spent, sizes, name))],
        }
        for name in ("text_1", "text_batch")
    }
    return {
        "settings": {
            "base": base.path.name,
            "dtype": str(engine.model.dtype),
            "adapter": "given" if adapter else f"{steps} steps",
            "threads": threads,
            "flows": flows,
            "label": LABEL,
            "runs": runs,
            "rows_ours": BATCH_FLOWS,
            "rows_text": ROWS,
        },
        "packets": sizes,
        "tokens_per_packet": {"ours": tokens / packets[0], "text": statistics.fmean(length for length, _ in text.packets)},
        "packets_per_second": {name: 1 / row["median"] for name, row in seconds.items()},
        "seconds_per_packet": seconds,
        "ratios": ratios,
    }


def _ratios(spent: dict[str, list[float]], sizes: dict[str, int], name: str) -> list[float]:
    return [(b / sizes[name]) / (a / sizes["ours"]) for a, b in zip(spent["ours"], spent[name], strict=True)]


if __name__ == "__main__":
    table(__doc__, "bench_generation.py", measure, 128, 2)
