"""One process of the registry's concurrency test: random operations until killed or `count` are done.

Arguments: root, adapter folder, seed, count. Prints one line an operation, so that the test can count them.
"""

from __future__ import annotations

import random
import sys

from trafficllm.core.errors import TrafficLLMError
from trafficllm.registry.store import Registry


def main(root: str, adapter: str, seed: str, count: str) -> None:
    rng, registry = random.Random(int(seed)), Registry(root)
    for i in range(int(count)):
        act = rng.choice(["register", "register", "promote", "promote", "rollback", "gc", "live"])
        try:
            names = [v.version for v in registry.list("MTD")]
            if act == "register":
                registry.register("MTD", adapter, {"seed": i}, status=rng.choice(["live", "candidate", "rejected"]))
            elif act == "gc":
                registry.gc("MTD", keep=3)
            elif act == "live":
                registry.verify("MTD")
            elif act == "rollback":
                registry.rollback("MTD")
            elif names:
                getattr(registry, act)("MTD", rng.choice(names))
        except TrafficLLMError as error:
            print(act, error.code, flush=True)
        else:
            print(act, "ok", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
