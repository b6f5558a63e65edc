"""CA2FL: calibrated buffers, with all caches at the server.

Y. Wang, Y. Cao, J. Wu, R. Chen, J. Chen, "Tackling the Data Heterogeneity in Asynchronous Federated
Learning with Cached Update Calibration", ICLR 2024, Algorithm 1: the server keeps h_i, the last
counted delta of each device, and its step is mean(h) plus the mean of delta_i - h_i over the
buffer. The textbook twin of `aggregator.strategy.calibrated`, whose file says what a device's first
update does; for devices that keep nothing, at the price of N x d numbers here
(`aggregator.caches`).

Does not work under masking: the server must see the delta of each device to keep it.
"""

from aggregator.strategy import Counted, Float32, Float64, State, Strategy
from aggregator.strategy.calibrated import calibrated


def ca2fl(*, learning_rate: float = 1.0) -> Strategy:
    """The calibrated step, on differences that are formed here."""
    twin = calibrated(learning_rate=learning_rate)

    def apply(
        params: Float32, mean_delta: Float64, state: State, counted: Counted
    ) -> tuple[Float64, State]:
        if counted.replaced is None:
            raise ValueError("ca2fl needs what was last counted of the devices")
        differences = mean_delta - counted.replaced / counted.num_updates
        return twin.apply(params, differences, state, counted)

    return Strategy(
        twin.init,
        apply,
        caches=True,
        plain_sum=True,
        unmaskable='it keeps the last delta of every device: use "calibrated", its twin on devices',
    )
