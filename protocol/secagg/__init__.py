"""Secure aggregation: the aggregator learns sums over devices, or nothing."""
