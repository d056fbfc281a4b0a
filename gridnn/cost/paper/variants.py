"""Readings of Gholami et al. 2018: what the text says, and what its figures were drawn with.

The printed equations do not give the printed bars.  Eq. 8 finds 4x128 and 2.24x less communication where
Fig. 6d shows 16x32 and 5.0x.  What separates the two, and how firmly it is known (bars digitised to a pixel):

|                         | literal           | as used by the figures         | known by                          |
|-------------------------|-------------------|--------------------------------|-----------------------------------|
| bandwidth               | 6e9 bytes/s       | 6 GiB/s                        | pure batch: 44.5 s, not 47.7      |
| conv in Fig. 6          | Pr cuts the model | Pr cuts the images: dW summed  | bars that go as 1/Pc, without     |
|                         |                   | over all P, and 3 halos of Y   | (Pr-1)/Pr; the 3 is a guess       |
| grids change into fc    | free              | Eq. 6 with d_i = 4096 of fc6   | a guess                           |
| overlap in Fig. 8       | two thirds hidden | dW sums behind all computation | bars                              |
| computation             | Fig. 4            | 13 to 26 % more                | bars                              |

A guess here is a form found by trying, without a free parameter, that meets all bars of Figs 6 and 7.  Really
9216 words a sample would move into fc6, and an inner strip has two halos a direction.
"""

from __future__ import annotations

from dataclasses import dataclass

from gridnn.cost.paper.gholami import CORI, EQ9_HALO, Halo, Link
from gridnn.errors import InputError

IMAGENET_SAMPLES = 1_200_000

Compute = tuple[tuple[int, float], ...]  # samples of a process; seconds of an epoch on one process

# Fig. 4, measured with Intel Caffe on one Knights Landing.
FIG4: Compute = (
    (1, 30740), (2, 17293), (4, 9608), (8, 5924), (16, 3922), (32, 2842),
    (64, 2322), (128, 2032), (256, 1777), (512, 1827), (1024, 1922), (2048, 2434),
)  # fmt: skip
# The compute part of the bars of Figs 6, 7 and 10, times P.  Why they stand above Fig. 4 is not said.
BARS: Compute = ((1, 34860), (4, 11451), (16, 4581), (64, 2777), (256, 2238))


@dataclass(frozen=True)
class Variant:
    """A reading of the paper.

    Attributes
    ----------
    link : Link
        Seconds a message and a byte.
    conv_by_domain : bool
        In Fig. 6 Pr cuts the images of convolutions, not their weights.
    halo : Halo
        What a domain cut moves.
    redistribute : bool
        Eq. 6 is paid once, before the first fc layer, over the Pr of that layer.
    hides_batch_sum : bool
        Fig. 8 hides the batch sums, as far as there is computation, and nothing else; or else two thirds of
        all communication, computation or not.
    compute : Compute
        Seconds of an epoch on one process, by samples a process.
    """

    name: str
    link: Link
    conv_by_domain: bool
    halo: Halo
    redistribute: bool
    hides_batch_sum: bool
    compute: Compute


LITERAL = Variant("literal", CORI, False, EQ9_HALO, False, False, FIG4)
AS_USED = Variant("as-used", Link(2e-6, 1 / (6 * 2**30)), True, Halo(0, 3, "eq2"), True, True, BARS)
VARIANTS = (AS_USED, LITERAL)


def find_variant(name: str) -> Variant:
    """Return a variant by its name, ``as-used`` or ``literal``.

    Raises
    ------
    InputError
        If there is no such variant.
    """
    found = {v.name: v for v in VARIANTS}
    if name not in found:
        raise InputError(f'variant "{name}" is not known; use one of {", ".join(found)}')
    return found[name]


def epoch_s(step_s: float, batch: int, samples: int = IMAGENET_SAMPLES) -> float:
    """Return the seconds of an epoch: N / B steps (Gholami et al. 2018, section 3).

    The text speaks of the cost of Eq. 4 times N / B; it means the equation of the grid at hand.
    """
    return step_s * samples / batch


def compute_s(variant: Variant, batch: int, procs: int) -> float:
    """Return the compute seconds of an epoch: those of one process with its share of the batch, over P.

    The same for every Pr x Pc: that products of other shapes run at other speeds is not modelled.  With less
    than a sample a process the time of one sample is shared: perfect scaling of the domain.

    Raises
    ------
    InputError
        If the paper has no time for that many samples a process.
    """
    share, times = max(1, batch // procs), dict(variant.compute)
    if share not in times:
        raise InputError(
            f"batch {batch} on {procs} processes: the {variant.name} variant has no compute time of {share} "
            f"samples a process; it has {', '.join(map(str, times))}"
        )
    return times[share] / procs


def hidden_s(variant: Variant, compute: float, batch_comm: float, model_comm: float) -> float:
    """Return the seconds of communication that Fig. 8 hides behind computation."""
    return min(batch_comm, compute) if variant.hides_batch_sum else 2 / 3 * (batch_comm + model_comm)
