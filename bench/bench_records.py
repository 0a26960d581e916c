"""Flows per second from labelled captures to a data set, against the original's way: `tshark -T fields` into text, file by file.

    python bench/bench_records.py DIR --task MTD [--every 5] [--alone 2] [--workers 1] [--runs 5] [--cpu] [--json]

Both sides read the same files in turn with as many processes: ours flow assembly, facts, masks, artefact probe, split,
hashes and Parquet; theirs one tshark a capture with the fields of the original's packet prompts, written as `field: value`
text, without flows, split or masks. Our kernels are compiled and warm, as in every run but the first on a machine.
Measured twice: on the captures as they are, many flows a file, where tshark is at its best; and on `--alone` flows of each
label written as one file a flow, the way the original's input is cut (a session a file), where each flow costs a start of tshark.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from peak_memory import peak_bytes

CAPTURES = Path(__file__).resolve().parents[1] / "src" / "trafficllm" / "data" / "captures"
FIELDS = (
    "frame.encap_type",
    "frame.time",
    "frame.time_epoch",
    "frame.time_delta",
    "frame.time_relative",
    "frame.number",
    "frame.len",
    "frame.protocols",
    "eth.dst",
    "eth.src",
    "eth.type",
    "ip.version",
    "ip.hdr_len",
    "ip.dsfield",
    "ip.len",
    "ip.id",
    "ip.flags",
    "ip.ttl",
    "ip.proto",
    "ip.checksum",
    "ip.src",
    "ip.dst",
    "tcp.srcport",
    "tcp.dstport",
    "tcp.stream",
    "tcp.len",
    "tcp.seq",
    "tcp.nxtseq",
    "tcp.ack",
    "tcp.hdr_len",
    "tcp.flags",
    "tcp.window_size",
    "tcp.checksum",
    "tcp.urgent_pointer",
    "tcp.payload",
    "udp.srcport",
    "udp.dstport",
    "udp.length",
    "udp.stream",
    "data.data",
)


def _clock(*, cpu: bool) -> float:
    """Seconds now: wall, or CPU of this process and its finished children."""
    if not cpu:
        return time.perf_counter()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(row.ru_utime + row.ru_stime for row in used)


def _pick(folder: Path, every: int, target: Path) -> Path:
    """A copy of every n-th capture of each label."""
    for label in sorted(path for path in folder.iterdir() if path.is_dir()):
        for file in sorted(label.rglob("*.pcap*"))[::every]:
            place = target / label.name / file.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
    return target


def _alone(folder: Path, each: int, target: Path) -> Path:
    """The first flows of each label, one capture a flow; a label's flows come from as many of its captures as it has."""
    from trafficllm.capture.files.read import read_frames
    from trafficllm.capture.files.write import write_capture
    from trafficllm.capture.flows.assembly import read_flows
    from trafficllm.core.settings import FlowOptions

    for label in sorted(path for path in folder.iterdir() if path.is_dir()):
        left = each
        (target / label.name).mkdir(parents=True)
        for file in sorted(label.rglob("*.pcap*")):
            for batch in read_flows([file], options=FlowOptions(max_packets=60_000)):
                for flow in range(min(left, len(batch))):
                    wanted = set(batch.p_frame[batch.pkt_ptr[flow] : batch.pkt_ptr[flow + 1]].tolist())
                    place = target / label.name / f"{file.stem}_session_{flow}.pcap"
                    write_capture(place, (_those(frames, wanted) for frames in read_frames([file])))
                    left -= 1
    return target


def _those(frames: Any, wanted: set[int]) -> Any:
    """The wanted frames of a batch, by number."""
    keep = [k for k, number in enumerate(frames.number.tolist()) if number in wanted]
    columns = {name: getattr(frames, name)[keep] for name in ("offset", "caplen", "origlen", "ts", "link", "source", "number")}
    return dataclasses.replace(frames, **columns)


def _ours(folder: Path, task: str, workers: int, out: Path) -> int:
    """Build the data set; returns the flows read."""
    from trafficllm.records.catalog import get_task
    from trafficllm.records.dataset.dataset import BuildOptions, build_dataset

    report = build_dataset(folder, task=get_task(task), out=out, options=BuildOptions(split="flow", workers=workers))
    shutil.rmtree(out)
    return sum(int(file["flows"]) for file in report.manifest["files"])


def _theirs(folder: Path, workers: int, out: Path) -> int:
    """One tshark a file, its fields as text; returns the packets written."""
    with ThreadPoolExecutor(workers) as pool:
        return sum(pool.map(lambda file: _text(file, out / f"{file.stem}.txt"), sorted(folder.rglob("*.pcap*"))))


def _text(file: Path, target: Path) -> int:
    words = [word for name in FIELDS for word in ("-e", name)]
    done = subprocess.run(["tshark", "-n", "-r", str(file), "-T", "fields", *words], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    with target.open("w") as stream:
        for line in lines:
            pairs = zip(FIELDS, line.split("\t"), strict=False)
            stream.write(", ".join(f"{name}: {value}" for name, value in pairs if value) + "\n")
    return len(lines)


def _compare(folder: Path, options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Both sides on one folder, in turn."""
    flows = _ours(folder, options.task, 1, root / "warm")
    seconds: dict[str, list[float]] = {"trafficllm": [], "tshark": []}
    packets = 0
    for run in range(options.runs):
        began = _clock(cpu=options.cpu)
        _ours(folder, options.task, options.workers, root / f"ds{run}")
        middle = _clock(cpu=options.cpu)
        text = root / f"text{run}"
        text.mkdir()
        packets = _theirs(folder, options.workers, text)
        seconds["trafficllm"].append(middle - began)
        seconds["tshark"].append(_clock(cpu=options.cpu) - middle)
        shutil.rmtree(text)
    speeds = {name: [flows / value for value in values] for name, values in seconds.items()}
    ratios = [a / b for a, b in zip(speeds["trafficllm"], speeds["tshark"], strict=True)]
    return {
        "files": len(list(folder.rglob("*.pcap*"))),
        "flows": flows,
        "packets": packets,
        "flows_per_second": {name: _spread(values) for name, values in speeds.items()},
        "ratio": _spread(ratios),
    }


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        whole = _compare(_pick(options.folder, options.every, root / "whole" / options.folder.name), options, root)
        alone = None
        if options.alone:
            alone = _compare(_alone(options.folder, options.alone, root / "alone" / options.folder.name), options, root)
    sizes = {name: whole.pop(name) for name in ("files", "flows", "packets")}
    settings = {
        "folder": options.folder.name,
        "task": options.task,
        "processes": options.workers,
        "clock": "cpu" if options.cpu else "wall",
        "runs": options.runs,
        "tshark_fields": len(FIELDS),
        "cores": os.cpu_count(),
        **sizes,
    }
    peak = peak_bytes() >> 20
    return {"schema": "trafficllm.bench_records/1", "settings": settings, **whole, "one_file_a_flow": alone, "peak_rss_mb": peak}


def _spread(values: list[float]) -> dict[str, Any]:
    return {"median": round(statistics.median(values), 2), "range": [round(min(values), 2), round(max(values), 2)]}


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=CAPTURES / "MTD", help="default: the bundled malware captures")
    parser.add_argument("--task", default="MTD")
    parser.add_argument("--every", type=int, default=1, help="take every n-th capture of a label")
    parser.add_argument("--alone", type=int, default=2, help="flows of each label to write as one file a flow; 0: leave that out")
    parser.add_argument("--workers", type=int, default=1, help="processes on both sides")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cpu", action="store_true", help="count CPU seconds: for machines that others use too")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--small", action="store_true", help="a trial of seconds: its figures mean nothing")
    options = parser.parse_args()
    if options.small:
        options.every, options.alone, options.runs = 20, 0, 1
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    result = _measure(options)
    if options.json:
        print(json.dumps(result, indent=1, sort_keys=True))
        return
    for layout, part in (("captures as they are", result), ("one file a flow", result["one_file_a_flow"])):
        if part:
            print(layout)
            for name, row in part["flows_per_second"].items():
                print(f"  {name:12s} {row['median']:10,.1f} flows/s  ({row['range'][0]:,.1f} - {row['range'][1]:,.1f})")
            print(f"  ratio        {part['ratio']['median']:10.1f} x")


if __name__ == "__main__":
    main()
