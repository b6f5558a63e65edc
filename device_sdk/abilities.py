"""What this SDK understands: words that a check-in says, so that leases ask for nothing else."""

from typing import Final

from protocol.vectors.hidden import DIFFERENCES
from protocol.vectors.packing import CALIBRATED, PLAN, SCHEMES
from protocol.vectors.values import DTYPES

#: What it can encode, and how a model may reach it.
CODECS: Final = ("dense", "topk", "randk", *DTYPES, CALIBRATED, DIFFERENCES)
#: And what it can in a secure task, where it says nothing in the open.
MASKED_CODECS: Final = ("dense", "randk", PLAN, *SCHEMES, CALIBRATED, DIFFERENCES)
