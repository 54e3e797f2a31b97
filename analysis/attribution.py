"""E5: may a loss be laid to the *kind* of training? Seeds, a sibling, a control branch and an interaction say so.

METHOD §3: the seed is the unit of "training of kind X does this"; significant here and not there is no interaction.
"""

import pandas as pd

from probes.sides import POOLED

QUANTITIES = ("B", "log_R")
LEVEL = 0.05


def attributable(branches: pd.DataFrame, edges: pd.DataFrame, parent: str, child: str, domain: str) -> bool:
    """Whether a step's loss in a domain is attributable to its kind of training.

    All of: the kind's mean over three seeds or more is a loss (95 %); it is a larger one than a sibling kind's, seed as
    the unit; this domain's change differs from the other domains' (not asked of the pooled row); and the same kind of
    training from another parent, the control branch, took less (95 % limits of B apart).

    Args:
        branches: branches.csv.
        edges: edges.csv of the compassion contrast.
        parent, child, domain: the step and prompt domain.
    """
    step = edges[(edges.parent == parent) & (edges.child == child)]
    kind = str(step.data_domain.iloc[0]) if len(step) else ""
    here = branches[(branches.parent == parent) & (branches.domain == domain)]
    by_seed = here[here.unit == "seed"]
    own = by_seed[(by_seed.child_a == kind) & (by_seed.child_b == "")]
    lost = own[own.quantity.isin([f"{q} change" for q in QUANTITIES]) & (own.high < 0)]
    first = by_seed[by_seed.quantity.isin(QUANTITIES) & (by_seed.child_a == kind) & (by_seed.high < 0)]
    second = by_seed[by_seed.quantity.isin(QUANTITIES) & (by_seed.child_b == kind) & (by_seed.low > 0)]
    alone = here[(here.child_a == child) & (here.child_b == "") & (here.unit == "scenario")]
    alone = alone[alone.quantity.isin([f"{q} interaction" for q in QUANTITIES])]
    stands_out = domain == POOLED or bool(((alone.difference < 0) & (alone.p_adjusted <= LEVEL)).any())
    against_sibling = len(first[first.child_b != ""]) + len(second) > 0
    return bool(kind and len(lost) and against_sibling and stands_out and _control_took_less(edges, step, kind, domain))


def _control_took_less(edges: pd.DataFrame, step: pd.DataFrame, kind: str, domain: str) -> bool:
    margins = edges[(edges.quantity == "B") & (edges.domain == domain)]
    own = margins[margins.index.isin(step.index)]
    others = margins[(margins.data_domain == kind) & ~margins.parent.isin(step.parent) & (margins.stage != "control")]
    return bool(len(own) and len(others) and (own.high.iloc[0] < others.low).all())
