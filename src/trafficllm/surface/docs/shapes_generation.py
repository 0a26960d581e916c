"""Closed shape of what `evaluate generation` prints; see `shapes`."""

from __future__ import annotations

from trafficllm.surface.docs.shapes_lines import Closed, Share


class FieldDistance(Closed):
    """Jensen-Shannon divergence (bits) of one field: generated against real flows, two real samples, and the baselines."""

    jsd: Share
    floor: Share
    independent: Share
    bayes: Share
    resample: Share


class QuantityDistance(Closed):
    """Earth mover's distance (octaves) of one quantity, as `FieldDistance`."""

    emd: float
    floor: float
    independent: float
    bayes: float
    resample: float


class Baselines(Closed):
    """A figure of the three generators that any model has to beat."""

    independent: float
    bayes: float
    resample: float


class Pair(Closed):
    """A figure of generated flows beside the one of held-out real flows."""

    synthetic: float
    real: float


class FlowNumbers(Closed):
    """How many flows a comparison rests on; `compared` is the size of each sample."""

    real: int
    synthetic: int
    train: int
    compared: int


class LabelFidelity(Closed):
    """One class: distances, the discriminator (0.5 is chance; `discriminator_real` parts held-out from training flows), copies."""

    fields: dict[str, FieldDistance]
    emd: dict[str, QuantityDistance]
    mean_jsd: Share
    mean_floor: Share
    mean: Baselines
    discriminator_f1: Share
    discriminator_real: Share
    copies: Pair
    nearest: Pair
    n: FlowNumbers


class Validity(Closed):
    """What `capture check` says of the generated captures."""

    valid: bool
    packets: int
    malformed: int
    bad_checksums: int
    bad_lengths: int
    tcp_violations: int


class Overlap(Closed):
    """Addresses, and names, cookies or session ids of training captures found in generated ones."""

    addresses: int
    names: int


class CutShape(Closed):
    """How the real captures were cut, and so the generated ones: bytes of a packet, of a flow; 0: whole."""

    snap: int
    flow: int


class EvaluateGeneration(LabelFidelity):
    """Means over the classes, the classes themselves, and macro-F1 trained on one kind (t) and tested on another: s synthetic, r real."""

    tstr: Share | None
    trts: Share | None
    trtr: Share | None
    labels: dict[str, LabelFidelity]
    not_compared: list[str]
    valid: Validity
    overlap: Overlap
    cuts: dict[str, CutShape]
    part: str
    seed: int
