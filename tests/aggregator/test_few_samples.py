"""Who has fewer samples than an update needs gets no lease, and hears why."""

import pytest

from protocol import refusals
from protocol.messages import CheckIn, Lease, Refusal
from tests.aggregator.conftest import MakeDesk
from tests.support.desk import CODECS, install_id


@pytest.mark.parametrize("least", [8, 20])
def test_too_few_samples_are_turned_away_with_a_reason(make_desk: MakeDesk, least: int) -> None:
    desk = make_desk(min_samples=least)
    for num_samples in (least - 1, least):
        message = CheckIn(install_id("a"), -1, num_samples, CODECS)
        desk.hear(desk.coordinator.topics.out("a"), desk.sealed("a", message))
        answer = desk.last("a")
        if num_samples == least:
            assert isinstance(answer, Lease)
        else:
            assert isinstance(answer, Refusal)
            assert answer.reason == refusals.FEW_SAMPLES
            assert answer.detail == (
                f"{num_samples} samples at hand: an update of this task needs {least}"
            )
            assert desk.coordinator.counts["refused_few_samples"] == 1
