"""Devices of a secure task: what they deal, hold, mask and answer."""

import numpy as np

from tests.support.circle import Circle

DELTA = [0.5, -0.25, 0.125, 0.0, 1.0, -1.0]


def test_the_sum_of_masked_updates_is_the_sum_of_the_deltas() -> None:
    circle = Circle()
    circle.join()
    deltas = {name: np.array(DELTA) * (1 + at) / 8 for at, name in enumerate("abc")}
    updates = {
        circle.index(name): circle.reports(name, list(delta)) for name, delta in deltas.items()
    }
    given = circle.cohort.roster.parameters
    sums = circle.sums(updates)
    assert given.weight_of(int(sums[-1])) == 3
    np.testing.assert_allclose(sums[:-1] / given.scale, sum(deltas.values()), atol=1e-3)
