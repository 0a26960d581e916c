"""The router that the package carries: which task a question asks for, learnt from the package's own questions.

    python recipes/shipped/router.py --out runs/router           # learn and register; does nothing where that is done
    python recipes/shipped/router.py --out runs/router --pack    # and put it into the package

Its figures are those of questions by authors that it never read (`routing` in its manifest).
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from shipped import PACKAGE, PLAN, tidy

from trafficllm.core.types import ROUTER

ORIGINS = {"the package's own questions (data/instructions)": "Apache-2.0"}


def learn(out: Path, base: str, *, steps: int = 0) -> Path:
    """The registry with the router, made where it is not there yet."""
    from trafficllm.core.settings import TuneOptions
    from trafficllm.lifecycle.adapters.learn_router import learn_router
    from trafficllm.lifecycle.adapters.training import Training
    from trafficllm.model.base.load import load_base
    from trafficllm.registry.store import Registry

    place, plan = out / "registry", PLAN["router"]
    if not (place / ROUTER / "pointer.json").is_file():
        options = TuneOptions(**{**plan["tune"], **({"max_steps": steps} if steps else {})})
        training = Training(load_base(base, dtype="float32"), Registry(place), out / "adapter", options)
        figures = learn_router(training, limit=plan["instructions"], held_out=plan["held_out"])
        print(f"{figures.accuracy:.3f} of {figures.n} questions routed right", file=sys.stderr)
    return place


def pack(place: Path, package: Path) -> int:
    """Put the live router into the package; bytes of all adapters there."""
    from trafficllm.registry.store import Registry

    shutil.rmtree(package / ROUTER, ignore_errors=True)
    version = Registry(place).live(ROUTER)
    Registry(package).register(ROUTER, version.path, {**version.manifest, "origins": ORIGINS, "parent": None}, status="live")
    return tidy(package)


def main(words: Sequence[str] | None = None) -> int:
    """Learn what is not there yet, pack it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where it is kept")
    parser.add_argument("--base", default="default")
    parser.add_argument("--steps", type=int, default=0, help="of tuning, instead of the plan's seconds")
    parser.add_argument("--pack", action="store_true", help="put it into the package")
    parser.add_argument("--package", type=Path, default=PACKAGE, help="where it is put")
    asked = parser.parse_args(words)
    place = learn(asked.out, asked.base, steps=asked.steps)
    if asked.pack:
        print(f"{pack(place, asked.package) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
