"""Ports of compiled flows: the plan's service where its payload stands up to that service's parsers, else a neutral one."""
from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence


def client_port(rng: random.Random) -> int:
    return rng.randrange(60_002, 65_536)


def settle(transport: str, port: int, contents: Sequence[bytes], rng: random.Random, repairs: Counter[str]) -> int:
    return port
