"""Lower bounds of one product: from how much of three arrays so many multiplications touch.

A rank makes a set V of multiplications; each takes one element of W and one of X and adds to one of Y.  The elements
touched are the *faces* of V.  Loomis and Whitney (1949): a set with small faces is small,

         Y
       +----+                  |V|^2  <=  w * x * y           w, x, y: elements of W, X, Y that V touches
      /  V /|  X
     +----+ |                  A rank with 1/P of all multiplications that owns 1/P of every array touches at least
     |  W | +                  the minimum of w + x + y under this and w >= |W|/P, x >= |X|/P, y >= |Y|/P;
     +----+/                   what it touches and does not own is moved: W and X to it, terms of Y from it.

For Y = W X with sorted extents m >= n >= k this is a problem of three unknowns with three cases, those of Al Daas,
Ballard, Grigori, Kumar and Rouse 2022 (SPAA; arXiv 2205.13407), who prove that the constants are attained:

| case | processes             | w + x + y of the best set     | a rank's set                               |
|------|-----------------------|-------------------------------|--------------------------------------------|
| 1D   | P <= m/n              | (mn + mk) / P + nk            | a slab: the smallest array whole           |
| 2D   | m/n <= P <= mn / k^2  | 2 (m n k^2 / P)^(1/2) + mn/P  | a column: the largest array cut, k whole   |
| 3D   | P >= mn / k^2         | 3 (m n k / P)^(2/3)           | a cube                                     |

Assumed: a classical product (every multiplication is made, by equal numbers on all ranks), one copy of every array at
the start and the end.  Who owns what does not matter: the least a rank moves is a convex function of what it owns, so
the mean over ranks is at least that of equal parts (our argument; docs/decisions/0042).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod, sqrt

Triple = tuple[float, float, float]
"""Of W, X and Y."""
REGIMES = ("none", "1D", "2D", "3D")
ROUNDING = 1e-9
"""Share of a number below which it is not told from 0."""


@dataclass(frozen=True)
class Product:
    """The multiplications of Y = W X, of matrices or of what is like them.

    Attributes
    ----------
    multiplies
        All multiplications.
    entries
        Entries of the matrices W, X and Y that take part.
    folds
        The most entries that one element of the array stands in: 1 for matrices, above for the matrix that a
        convolution makes of its input (`conv`).
    """

    multiplies: int
    entries: tuple[int, int, int]
    folds: tuple[int, int, int] = (1, 1, 1)


def matrices(outputs: int, inputs: int, columns: int) -> Product:
    """Return the product of W (outputs, inputs) and X (inputs, columns)."""
    return Product(outputs * inputs * columns, (outputs * inputs, inputs * columns, outputs * columns))


def least_faces(product: Product, procs: int, counts: Triple = (1.0, 1.0, 1.0)) -> Triple:
    """Return the faces of 1/P of the multiplications of which least is moved, in entries.

    Exact: the gradients of the sum and of the product are parallel where they must grow, so every face is at
    ``level / cost`` or at its own limit; one level is looked for, and between two limits it is a root.

    Parameters
    ----------
    counts
        How often an element of W, X, Y counts; one that does not count (0) is held whole.
    """
    low, high = _owned(product, procs), product.entries
    costs = [count / fold for count, fold in zip(counts, product.folds, strict=True)]
    target = (product.multiplies / procs) ** 2
    sides = list(zip(costs, low, high, strict=True))
    before = 0.0
    for level in sorted({cost * limit for cost, *ends in sides if cost for limit in ends}):
        found = [min(max(level / cost, lo), hi) if cost else float(hi) for cost, lo, hi in sides]
        if prod(found) >= target:
            # Between the limits before and level some faces follow the level; they are shrunk by one factor.
            free = [bool(cost) and cost * lo <= before and cost * hi >= level for cost, lo, hi in sides]
            root = (target / prod(found)) ** (1 / sum(free)) if before and any(free) else 1.0
            w, x, y = (face * root if moves else face for face, moves in zip(found, free, strict=True))
            return w, x, y
        before = level
    return high


def moved_words(product: Product, procs: int, counts: Triple = (1.0, 1.0, 1.0)) -> float:
    """Return elements that some rank must move at least: what it touches and does not own.

    With all counts 1 it is, for matrices, the bound of Al Daas et al. 2022: the table above less (mn + mk + nk) / P.
    """
    faces, owned = least_faces(product, procs, counts), _owned(product, procs)
    sides = zip(counts, product.folds, faces, owned, strict=True)
    words = sum(count / fold * max(0.0, face - own) for count, fold, face, own in sides)
    return words if words > ROUNDING * sum(owned) else 0.0


def regime(product: Product, procs: int) -> str:
    """Return the case of the table above: of how many arrays a rank must touch more than its part."""
    faces, owned = least_faces(product, procs), _owned(product, procs)
    return REGIMES[sum(face > own * (1 + ROUNDING) for face, own in zip(faces, owned, strict=True))]


def memory_words(product: Product, procs: int, memory: float) -> float:
    """Return elements that a rank with room for M of them must move for 1/P of one product, at least 0.

    2 |V| / (fold M)^(1/2) - 3 M: it is 0 wherever a rank's part of a layer fits, as in most networks of today.

    Derivation: cut the work so that in each part 2 M elements are received or begun (a first term of an element of
    Y).  A part touches what was there, M, and those: 3 M, so it makes at most fold^(1/2) M^(3/2) multiplications, at
    w = x = y = M.  That gives |V| / (fold^(1/2) M^(3/2)) - 1 whole parts.  What was begun is sent, or is there at the
    end: M at most.  The form is that of Smith et al. 2017 (arXiv 1702.02017) for matrices and of Chen et al. 2022
    (arXiv 2204.08279) for convolutions, whose last term is said to be 2 M; the 3 M here is our own.
    """
    return max(0.0, 2 * product.multiplies / procs / sqrt(prod(product.folds) * memory) - 3 * memory)


def _owned(product: Product, procs: int) -> Triple:
    w, x, y = (entries / procs for entries in product.entries)
    return w, x, y
