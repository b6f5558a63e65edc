"""What is said between devices and the aggregator: values and pure functions, no I/O."""
