"""What signatures and sealing cost is measured, and within reach."""

from benchmarks.trust_identity import measure


def test_an_update_costs_a_millisecond_at_most_to_sign_and_seal() -> None:
    default = measure(quick=True)["default"]
    assert isinstance(default, dict)
    for side in ("device", "aggregator"):
        found = default[side]
        assert isinstance(found, dict)
        extra = found["ms_extra"]
        assert isinstance(extra, dict)
        # CPU time, but of a machine that others may keep busy: a machine that is ten times as slow.
        assert 0 < float(str(extra["measured"])) < 10
    assert int(str(default["bytes_extra"])) < 600
