"""`data build` on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from trafficllm.lifecycle.cluster.session import cluster

if TYPE_CHECKING:
    from trafficllm.capture.files.read import Skipped
    from trafficllm.records.dataset.nodes import Spread


@contextmanager
def spread_over(address: str, skipped: Skipped) -> Iterator[Spread | None]:
    """The cluster at this address for `lifecycle.datasets.build`; None where no address is given: this process then builds alone."""
    from trafficllm.records.dataset.nodes import Spread

    if not address:
        yield None
        return
    with cluster(address) as nodes:
        yield Spread(nodes, skipped.add)
