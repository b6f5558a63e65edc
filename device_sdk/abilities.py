"""What this SDK understands: words that a check-in says, so that leases ask for nothing else."""

from typing import Final

from protocol.vectors.packing import CALIBRATED, PLAN, SCHEMES
from protocol.vectors.values import DTYPES

#: What it can encode.
CODECS: Final = ("dense", "topk", "randk", *DTYPES, CALIBRATED)
#: And what it can in a secure task, where it says nothing in the open.
MASKED_CODECS: Final = ("dense", "randk", PLAN, *SCHEMES, CALIBRATED)
