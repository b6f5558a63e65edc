"""What fedbus costs, measured: ``python -m benchmarks NAME --json OUT``.

Every figure is a median; every comparison was made within one run, its two sides in turn, since the
machine may be shared. Nothing here is a test: figures do not fail anything.
"""

import os

# One BLAS thread, here and in every process started from here, before NumPy is imported.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
