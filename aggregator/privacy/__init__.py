"""Client-level differential privacy: bounds, noise, and an account of what was spent.

docs/adr/0031 has the promise and its proof; one noun a file. Pure: no I/O, clock or entropy.
"""
