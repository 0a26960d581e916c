"""A small scenario with every kind of source that needs no model, and a run of it."""

from __future__ import annotations

from pathlib import Path

from trafficllm.lifecycle.generate.scenario.results import GenerateScenario
from trafficllm.lifecycle.generate.scenario.scenario import Wish, generate_scenario

SMALL = """
title = "Small network"
briefing = "Somebody noticed something."
start = 2026-02-01T10:00:00Z
span = 120

[[host]]
name = "pc"
count = 3

[[host]]
name = "ns"

[[host]]
name = "web"
outside = true
count = 2
domain = "www.example.org"

[[host]]
name = "c2"
outside = true

[[background]]
label = "DNS"
from = "pc"
to = "ns"
per_minute = 6
source = { pattern = "dns" }

[[background]]
label = "Web"
from = "pc"
to = "web"
per_minute = 4
ip_version = 6
source = { pattern = "tls", exchanges = [1, 2], answer = [200, 3000], pause = [0.1, 0.5] }

[[background]]
label = "Old"
from = "pc"
to = "web"
per_minute = 3
source = { captures = "package:EAC/Google" }

[[event]]
name = "beacon"
label = "Quiet-Label"
from = "pc-2"
to = "c2"
start = 10
stop = 110
every = 10
jitter = 0.2
source = { pattern = "tls", exchanges = [1, 1], request = [100, 110], answer = [100, 110] }

[[event]]
name = "leak"
label = "Tunnel"
from = "pc-3"
to = "ns"
start = 20
stop = 60
flows = 3
source = { pattern = "dns-tunnel", exchanges = [3, 5] }

[[rule]]
event = "beacon"
text = 'alert tls any any -> any any (msg:"x"; tls.sni; content:"c2.example"; sid:1000001;)'
"""


def no_log(_capture: Path, log: Path) -> None:
    """In the place of the command line's writer of conn.log."""
    log.write_text("#\n", encoding="utf-8")


def written(folder: Path, *, text: str = SMALL, wish: Wish | None = None) -> GenerateScenario:
    """A scenario written to `folder`/out."""
    folder.mkdir(exist_ok=True)
    (folder / "small.toml").write_text(text, encoding="utf-8")
    return generate_scenario(folder / "small.toml", out=folder / "out", wish=wish or Wish(), conn_log=no_log)
