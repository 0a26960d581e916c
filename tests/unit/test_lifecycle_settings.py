"""Every setting does something: each key is changed in a configuration file, and what it governs differs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from capture_samples import ACK, PSH, A, B, Talk, ethernet, ipv4, pcap, udp, write
from hello_samples import hello, records
from tune_forks import make_base, rows

from trafficllm.capture.flows.assembly import read_flows
from trafficllm.core.errors import ResourceError, UsageError
from trafficllm.core.files import sha256_file
from trafficllm.core.settings import Config, FlowOptions, every_key, load_config
from trafficllm.core.types import ORIG, Record, Silent
from trafficllm.lifecycle.adapters.background import Beside, chosen
from trafficllm.lifecycle.adapters.register import _training, tuning_base
from trafficllm.lifecycle.bases.tuning import TuneRequest, tune_options
from trafficllm.lifecycle.workspace import Workspace
from trafficllm.model.base.load import Base
from trafficllm.model.tuning.job import TuneData, tune_task
from trafficllm.model.tuning.plan import plan_data
from trafficllm.records.catalog import get_task
from trafficllm.records.codec.codec import encode
from trafficllm.records.dataset.dataset import BuildOptions
from trafficllm.records.masks import apply

PING = bytes([8, 0, 0, 0, 1, 2, 3, 4]) + b"x"
HIDDEN = Talk().send(ORIG, PSH | ACK, b"inside a tunnel")


def _config(folder: Path, text: str) -> Config:
    path = folder / "settings.toml"
    path.write_text(text)
    return load_config(path)


def _frames() -> list[tuple[float, bytes]]:
    """A long TCP flow, one with a gap, UDP and ICMP with gaps, a reply alone, a wrong checksum, two tunnels, a TLS hello longer than a
    prefix, and forty flows at once."""
    talk = Talk(sport=1000).open()
    for _ in range(6):
        talk.send(ORIG, PSH | ACK, b"longer than one byte")
    ask, reply = ethernet(ipv4(17, udp(5000, 9000, b"q"))), ethernet(ipv4(17, udp(53, 5001, b"r"), B, A))
    late = Talk(sport=1001, start=30.0)
    wrong = bytearray(ethernet(ipv4(17, udp(5003, 9003, b"bad"))))
    wrong[-1] ^= 0xFF
    frames = [*talk.frames, *((ts + 40, frame) for ts, frame in talk.frames[:1]), *late.send(ORIG, PSH | ACK, b"x").frames]
    frames += [(ts, frame) for ts in (1.0, 31.0) for frame in (ask, ethernet(ipv4(1, PING)))]
    frames += [(2.0, reply), (3.0, bytes(wrong))]
    frames += [(4.0, ethernet(ipv4(4, frame[14:]))) for _, frame in HIDDEN.frames]
    overlay = bytes([8, 0, 0, 0, 0, 0, 1, 0]) + ethernet(ipv4(17, udp(7001, 9200, b"in VXLAN")))
    frames.append((4.5, ethernet(ipv4(17, udp(7000, 4789, overlay)))))
    greeting, hello_bytes = Talk(sport=1002, dport=443).open(), records(hello())
    for at in range(0, len(hello_bytes), 1400):
        greeting.send(ORIG, PSH | ACK, hello_bytes[at : at + 1400])
    frames += greeting.frames
    frames += [(5.0 + k / 1000, ethernet(ipv4(17, udp(6000 + k, 9100, b"n")))) for k in range(40)]
    return sorted(frames, key=lambda item: item[0])


CAPTURE = {
    "max_packets": "1",
    "max_payload": "1",
    "tcp_timeout": "10.0",
    "udp_timeout": "10.0",
    "icmp_timeout": "10.0",
    "active_timeout": "0.001",
    "table_size": "16",
    "flip": "false",
    "checksums": "true",
    "hello_bytes": "0",
    "tunnels": "false",
    "vxlan_ports": "[1]",
}


def _flows(folder: Path, options: FlowOptions) -> list[tuple[Any, ...]]:
    path = folder / "flows.pcap"
    if not path.exists():
        write(folder, pcap(_frames()), name="flows.pcap")
    names = ("orig_p", "pkts", "end_reason", "ts", "p_dir", "payload", "beyond")
    return [tuple(getattr(batch, name).tolist() for name in names) for batch in read_flows([path], options=options)]


@pytest.mark.parametrize("key", CAPTURE)
def test_a_setting_of_flows_changes_them(key: str, tmp_path: Path) -> None:
    plain, changed = (_config(tmp_path, text) for text in ("", f"[capture]\n{key} = {CAPTURE[key]}\n"))
    assert _flows(tmp_path, plain.capture) != _flows(tmp_path, changed.capture)


RECORDS = {"packets": "2", "payload": "[4, 0]", "text": "5", "bursts": "2", "profile": '"raw"'}
SAMPLES = (
    Record(proto=6, ports=(50000, 443), dirs=(0, 1, 0, 1), sizes=(10, 20, 30, 40), iats=(0, 1, 1, 1), payload=(b"abcdefgh", b"ijklmnop")),
    Record(kind="http", text="GET /a/rather/long/path HTTP/1.1"),
    Record(kind="cells", dirs=(0, 1, 0, 1, 0), iats=(0, 1, 1, 1, 1)),
)


@pytest.mark.parametrize("key", RECORDS)
def test_a_setting_of_records_changes_them(key: str, tmp_path: Path) -> None:
    sides = []
    for text in ("", f"[records]\n{key} = {RECORDS[key]}\n"):
        options = BuildOptions.of(_config(tmp_path, text), profile="")
        sides.append([encode(apply(record, options.profile), options.codec) for record in SAMPLES])
    assert sides[0] != sides[1]


@pytest.fixture(scope="module", name="base")
def _base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return make_base(tmp_path_factory.mktemp("settings"))


COMMON = "learning_rate = 5e-3\nr = 8\nlora_alpha = 16\nbatch_tokens = 1024\n"
SHORT = f"{COMMON}max_steps = 3\nlooks = 0\nreadout = 0\nlogging_steps = 1\n"
LOOKING = f"{COMMON}max_steps = 6\nlooks = 6\nfirst_look = 0.0\nreadout = 0\nlogging_steps = 1\n"
TUNE: dict[str, tuple[str, str]] = {
    "method": (SHORT, 'method = "rslora"'),
    "prefix_tokens": (SHORT + 'method = "prefix"\n', "prefix_tokens = 3"),
    "r": (SHORT.replace("r = 8\n", ""), "r = 4"),
    "lora_alpha": (SHORT.replace("lora_alpha = 16\n", ""), "lora_alpha = 4"),
    "lora_dropout": (SHORT, "lora_dropout = 0.5"),
    "learning_rate": (SHORT.replace("learning_rate = 5e-3\n", ""), "learning_rate = 1e-4"),
    "weight_decay": (SHORT, "weight_decay = 5.0"),
    "warmup": (SHORT, "warmup = 0.9"),
    "epochs": (SHORT.replace("max_steps = 3\n", "") + "method = 'lora'\n", "epochs = 1"),
    "max_steps": (SHORT.replace("max_steps = 3\n", "epochs = 1\n"), "max_steps = 2"),
    "max_seconds": (SHORT.replace("max_steps = 3\n", "epochs = 3\n"), "max_seconds = 0.001"),
    "batch_tokens": (SHORT.replace("batch_tokens = 1024\n", ""), "batch_tokens = 300"),
    "max_grad_norm": (SHORT, "max_grad_norm = 1e-3"),
    "full_weight": (SHORT, "full_weight = 2.0"),
    "label_smoothing": (SHORT, "label_smoothing = 0.4"),
    "balance": (SHORT, "balance = 0.0"),
    "looks": (LOOKING.replace("looks = 6\n", ""), "looks = 1"),
    "first_look": (LOOKING.replace("first_look = 0.0\n", ""), "first_look = 1.0"),
    "patience": (LOOKING.replace("learning_rate = 5e-3", "learning_rate = 1e-9"), "patience = 1"),
    "val_limit": (LOOKING, "val_limit = 3"),
    "logging_steps": (SHORT.replace("logging_steps = 1\n", ""), "logging_steps = 2"),
    "readout": (SHORT.replace("readout = 0\n", ""), "readout = 0"),
    "seed": (SHORT, "seed = 5"),
}


def _uneven() -> TuneData:
    """Few rows, of which one class has the most."""
    data = rows(60, 12)
    at = [k for k, answer in enumerate(data.answers) if answer == "Alpha" or k % 4 == 0]
    return TuneData([data.prompts[k] for k in at], [data.answers[k] for k in at], data.labels, data.val_prompts, data.val_answers)


def _result(base: Base, folder: Path, text: str) -> dict[str, Any]:
    """What a run leaves: weights, the lines of its metrics without times, steps, the readout."""
    folder.mkdir()
    out = folder / "out"
    report = tune_task(base, _uneven(), out, tune_options(_config(folder, f"[tune]\n{text}\n"), seed=None, max_seconds=None, alone=True))
    timed = {"seconds", "tokens_per_second", "time"}
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {
        "weights": sha256_file(out / "adapter_model.safetensors"),
        "metrics": [{name: value for name, value in line.items() if name not in timed} for line in lines],
        "steps": report.steps,
        "readout": report.readout is not None,
    }


_done: dict[str, dict[str, Any]] = {}


@pytest.mark.parametrize("key", TUNE)
def test_a_setting_of_tuning_changes_the_run(key: str, base: Base, tmp_path: Path) -> None:
    common, changed = TUNE[key]
    if common not in _done:
        _done[common] = _result(base, tmp_path / "a", common)
    plain = common.replace('method = "prefix"\n', "") if changed.startswith("method") else common
    assert _done[common] != _result(base, tmp_path / "b", f"{plain}{changed}")


def test_the_same_settings_give_the_same_run(base: Base, tmp_path: Path) -> None:
    assert _result(base, tmp_path / "a", SHORT) == _result(base, tmp_path / "b", SHORT)


class Watched:
    """Names of the checkpoints that exist while a run goes on."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, set[str]()

    def update(self, stage: str, done: int, total: int | None) -> None:
        self.seen |= {path.name for path in self.folder.glob("checkpoints/checkpoint-*")}


def test_save_steps_say_where_checkpoints_lie(base: Base, tmp_path: Path) -> None:
    seen = []
    for steps in (100, 1):
        watched = Watched(tmp_path / f"{steps}")
        config = _config(tmp_path, f"[tune]\n{SHORT}save_steps = {steps}\n")
        tune_task(base, _uneven(), watched.folder, tune_options(config, seed=None, max_seconds=None), watched)
        seen.append(watched.seen)
    assert not seen[0]
    assert "checkpoint-1" in seen[1]


def test_the_clock_that_ends_a_run(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks: Iterator[int] = iter(range(0, 10**9, 1000))
    monkeypatch.setattr(time, "process_time", lambda: float(next(ticks)))
    common = SHORT.replace("max_steps = 3\n", "epochs = 4\nmax_seconds = 900\n")
    steps = [_result(base, tmp_path / clock, f'{common}clock = "{clock}"')["steps"] for clock in ("wall", "processor")]
    assert steps[1] < steps[0]


def test_gradient_checkpointing_takes_less_memory(base: Base, tmp_path: Path) -> None:
    plans = [
        plan_data(base.path, _uneven(), _config(tmp_path, f"[tune]\n{SHORT}gradient_checkpointing = {value}\n").tune.options())
        for value in ("false", "true")
    ]
    assert plans[0].as_dict() != plans[1].as_dict()


def test_shard_and_report_to_are_heard(base: Base, tmp_path: Path) -> None:
    def attempt(text: str) -> Callable[[], Any]:
        return lambda: _result(base, tmp_path / text.split(maxsplit=1)[0], f"{SHORT}{text}\n")

    with pytest.raises(UsageError, match="cannot be sharded"):
        attempt('shard = true\nmethod = "qlora"')()
    with pytest.raises(ResourceError, match="cannot report"):
        attempt('report_to = ["comet_ml"]')()


def test_precision_is_that_of_the_base(base: Base, tmp_path: Path) -> None:
    text = '[tune]\nprecision = "bfloat16"\n'
    config = _config(tmp_path, text)
    assert str(TuneRequest(str(base.path), config=tmp_path / "settings.toml").open().model.dtype) == "torch.bfloat16"
    assert str(tuning_base(Workspace(base=str(base.path), config=config)).model.dtype) == "torch.bfloat16"
    workspace = Workspace(base=str(base.path))
    assert tuning_base(workspace) is workspace.base


def test_base_and_registry_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRAFFICLLM_BASE", "TRAFFICLLM_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    workspace = Workspace(config=_config(tmp_path, f'base = "plain"\nregistry = "{tmp_path}/r"\n'))
    assert (workspace.base_name, workspace.registry_root) == ("plain", tmp_path / "r")


def test_the_trusted_key_reaches_the_registry(tmp_path: Path) -> None:
    """What it refuses: tests/security/test_served_content.py."""
    key = tmp_path / "key.pub"
    assert Workspace(config=_config(tmp_path, f'trusted_key = "{key}"\n')).registry.trusted_key == key
    assert Workspace(config=_config(tmp_path, "")).registry.trusted_key is None


def test_the_seed_is_the_splits_too(tmp_path: Path) -> None:
    config = _config(tmp_path, "[tune]\nseed = 4\n")
    assert (BuildOptions.of(config, seed=None).seed, BuildOptions.of(config, seed=0).seed) == (4, 0)
    assert tune_options(config, seed=None, max_seconds=None).seed == 4
    assert tune_options(config, seed=0, max_seconds=None).seed == 0


def test_the_background_is_the_configurations(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    write(tmp_path / "home", pcap(_frames()), name="a.pcap")
    config = _config(tmp_path, f'[learn]\nbackground = ["{tmp_path}/home"]\n')
    task = get_task("MTD")
    assert chosen(task, config, None) == Beside([tmp_path / "home"], packaged=True, others="malware")
    assert chosen(task, Config(), None) == Beside([], packaged=True, others="malware")
    assert chosen(task, _config(tmp_path, "[learn]\npackaged = false\n"), None) == Beside([], packaged=False)


def test_the_rate_of_false_positives_is_the_commands_then_the_configurations(tmp_path: Path) -> None:
    workspace = Workspace(config=_config(tmp_path, "[learn]\nfalse_positives = 0.05\n"))

    def rate(workspace: Workspace, asked: float | None) -> float:
        return _training(workspace, tmp_path, tune_options(workspace.config, seed=None, max_seconds=None), Silent(), asked).false_positives

    assert (rate(workspace, None), rate(workspace, 0.002)) == (0.05, 0.002)
    assert rate(Workspace(config=Config()), None) == 0.01
    for wrong in (0.0, 0.3):
        with pytest.raises(UsageError, match="false_positives"):
            _config(tmp_path, f"[learn]\nfalse_positives = {wrong}\n")


def test_who_writes_is_the_commands_then_the_configurations(tmp_path: Path) -> None:
    config = _config(tmp_path, 'words = "off"\n')
    assert (Workspace(config=config).words, Workspace(config=config, words="smollm2").words) == ("off", "smollm2")
    assert Workspace(config=Config()).words == "auto"


def test_every_key_is_tried_here() -> None:
    elsewhere = {"tune.save_steps", "tune.clock", "tune.gradient_checkpointing", "tune.shard", "tune.report_to", "tune.precision"}
    tried = {f"capture.{key}" for key in CAPTURE} | {f"records.{key}" for key in RECORDS} | {f"tune.{key}" for key in TUNE}
    learn = {"learn.background", "learn.packaged", "learn.false_positives"}
    assert {name for name, _ in every_key()} == tried | elsewhere | learn | {"base", "products", "registry", "trusted_key", "words"}


def _options(command: str) -> set[str]:
    import typer

    from trafficllm.surface.cli.main import app

    found: Any = typer.main.get_command(app)
    for word in command.split():
        found = found.commands[word]
    return {name for parameter in found.params for name in parameter.opts}


def test_commands_that_read_a_setting_take_a_configuration() -> None:
    named = {command for _, field in every_key() for command in field.json_schema_extra["commands"]}
    commands = {command for command in named if not command.startswith("all with")}
    assert len(commands) >= 10
    assert {command for command in commands if "--config" not in _options(command)} == set()
