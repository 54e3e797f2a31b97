"""Activation files of every format version that was ever written still read, and say the same."""

from pathlib import Path

import numpy as np
import pytest

from activations.store import READABLE, STORE_VERSION, ActivationStore
from probes.sides import layout, read_sides

FILES = Path(__file__).parent / "stores"


def test_there_is_a_sample_of_every_version():
    assert sorted(int(p.stem.removeprefix("version")) for p in FILES.glob("*.h5")) == sorted(READABLE)
    assert max(READABLE) == STORE_VERSION


@pytest.mark.parametrize("version", READABLE)
def test_a_sample_reads_as_it_was_written(version):
    with ActivationStore(FILES / f"version{version}.h5") as store:
        assert store.kinds == ("response", "prompt", "null_prompt", "neutral")
        assert store.sites == ("blocks.0.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
        rows = store.rows("response")
        assert len(rows) == 12
        assert set(rows.domain) == {"harbour", "orchard"}
        assert set(rows.side) == {"positive", "negative"}
        plan = layout(rows, "compassion", "sample")
        sides = read_sides(store, plan, "response_mean", store.sites[2])
        # Written by the tiny random Llama of tests/conftest.py (width 8, 2 blocks, seed 0).
        assert np.linalg.norm(sides.difference.mean(axis=0)) == pytest.approx(0.312202, rel=1e-5)
        assert store.mean_logprob("response").mean() == pytest.approx(-5.950684, rel=1e-6)


def test_versions_that_hold_the_same_study_hold_the_same_numbers():
    with ActivationStore(FILES / "version1.h5") as old, ActivationStore(FILES / "version2.h5") as new:
        for site in old.sites:
            a, b = (s.residual("response", "response_mean", site) for s in (old, new))
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        assert old.rows("neutral").equals(new.rows("neutral"))
