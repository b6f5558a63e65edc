"""Masked buffers: from an update that waits for shares to a version, whatever happens between."""

import numpy as np
import pytest

from tests.aggregator.conftest import MakeSecure


@pytest.mark.parametrize("scheme", ["seedmask", "lightsecagg"])
def test_a_buffer_becomes_the_mean_of_what_was_masked(make_secure: MakeSecure, scheme: str) -> None:
    desk = make_secure(secure={"scheme": scheme})
    desk.stock_up()
    ids = desk.train("a", "b", "c", "d")
    assert desk.version == 0
    desk.answer(*"abcdefgh")
    assert desk.version == 1
    np.testing.assert_allclose(desk.desk.step, desk.expected(ids), atol=desk.tolerance(4))
