"""How true to life generated flows are, in numbers."""

from __future__ import annotations

from trafficllm.core.results import Result, Share


class FieldDistance(Result):
    """Jensen-Shannon divergence (bits) of one field: generated against real flows, two real samples, and the baselines."""

    jsd: Share
    floor: Share
    independent: Share
    bayes: Share
    resample: Share


class QuantityDistance(Result):
    """Earth mover's distance (octaves) of one quantity, as `FieldDistance`."""

    emd: float
    floor: float
    independent: float
    bayes: float
    resample: float


class BaselineFigures(Result):
    """A figure of the three generators that any model has to beat."""

    independent: float
    bayes: float
    resample: float


class Pair(Result):
    """A figure of generated flows beside the one of held-out real flows."""

    synthetic: float
    real: float


class FlowNumbers(Result):
    """How many flows a comparison rests on; `compared` is the size of each sample."""

    real: int
    synthetic: int
    train: int
    compared: int


class Floors(Result):
    """Mean JSD over the fields of two samples of `compared` flows: of one real capture (`within`), of two real captures of the class
    (`between`), generated ones and a held-out capture (`generated`); over `captures`, training and held-out ones alike. None where there
    is one capture only, or too few generated flows."""

    within: Share
    between: Share | None
    generated: Share | None
    captures: int
    compared: int


class LabelFidelity(Result):
    """One class: distances, the discriminator (0.5 is chance; `discriminator_real` parts held-out from training flows), copies. `floors`
    is None where captures are not told apart, or have too few flows."""

    fields: dict[str, FieldDistance]
    emd: dict[str, QuantityDistance]
    mean_jsd: Share
    mean_floor: Share
    mean: BaselineFigures
    discriminator_f1: Share
    discriminator_real: Share
    copies: Pair
    nearest: Pair
    n: FlowNumbers
    floors: Floors | None = None


class Overlap(Result):
    """Addresses, and names, cookies or session ids of training captures found in generated ones."""

    addresses: int
    names: int


class Fidelity(LabelFidelity):
    """Flows of one class or several; macro-F1 trained on one kind (t) and tested on another: s synthetic, r real, None for one class."""

    tstr: Share | None
    trts: Share | None
    trtr: Share | None


class ClassFidelity(Fidelity):
    """Means over the classes, the classes themselves, and those that only one side has or has too few flows of."""

    labels: dict[str, LabelFidelity]
    not_compared: list[str]
