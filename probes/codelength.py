"""Minimum description length of the labels: how many bits it takes to send them once the residuals are known."""

from itertools import pairwise

import numpy as np

from probes.readers import fit_logistic
from probes.sides import Sides

SHARES = (0.0625, 0.125, 0.25, 0.5, 1.0)  # of the scenarios, each portion coded by what the ones before it taught
FIRST = 4  # scenarios at least in the first portion, which is sent uncoded


def codelength(sides: Sides, *, seed: int) -> float:
    """Online (prequential) codelength in bits a label; 1 is what no knowledge takes (Voita & Titov, arXiv:2003.12298).

    The scenarios come in random order. Each portion's labels cost −log2 of the probability that a logistic reader gives
    them, fitted on all portions before it; the first portion costs a bit a label. Both sides of a scenario are in one
    portion. NaN with fewer than eight scenarios.
    """
    n = len(sides.positive)
    ends = sorted({max(FIRST, round(share * n)) for share in SHARES})
    if n < 2 * FIRST:
        return float("nan")
    shuffled = sides.rows(np.random.default_rng([seed, n]).permutation(n))
    bits = 2.0 * ends[0]
    for start, end in pairwise(ends):
        known, new = shuffled.rows(np.arange(start)), shuffled.rows(np.arange(start, end))
        bits += _cost(known, new, seed)
    return bits / (2 * n)


def _cost(known: Sides, new: Sides, seed: int) -> float:
    unit, offset, gain = fit_logistic(known, [str(i) for i in range(len(known.positive))], seed)
    odds = np.concatenate([new.positive @ unit + offset, -(new.negative @ unit + offset)])
    return float(np.logaddexp(0.0, -gain * odds).sum() / np.log(2))
