"""The hidden state: the params that all devices hold, and how a version follows the one before.

The aggregator keeps its own params x exact, and beside them what devices hold, xh. It publishes
C(x - xh) with a codec C, and both sides add that to xh, in float32, so that it is the same to the
last bit everywhere. What C left out is in the next x - xh: nothing adds up. (QAFeL: T. Ortega and
H. Jafarkhani, "Asynchronous federated learning with bidirectional quantized communications and
buffered aggregation", 2023; https://arxiv.org/abs/2308.00263.)

Some versions are published whole as well, as numbers of float32, float16 or int8. There xh *is*
what such numbers can say: who has added all differences rounds to them as the last step, so that
it holds the same as who begins there. What rounding took off is in the next difference, too.

Pure functions. Every codec is taken as its calibrated, contractive self: rounded to the nearest,
nothing enlarged.
"""

import hashlib
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from protocol import refusals
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.messages import Difference
from protocol.vectors.layout import Layout, Subset, params_from_bytes, params_to_bytes
from protocol.vectors.packing import (
    DENSE,
    CodecSpec,
    decode,
    encode,
    max_body_bytes,
    parse_codec,
)
from protocol.vectors.quantise import LARGEST
from protocol.vectors.support import support_seed

#: The word by which a device says that it understands differences, and models that are not float32.
DIFFERENCES: Final = "differences"
FLOAT32: Final = "float32"
#: Number types in which models are published.
MODEL_TYPES: Final = (FLOAT32, "float16", "int8")

Float32 = npt.NDArray[np.float32]

_NO_SEED: Final = bytes(32)


def model_hash(params: Float32) -> bytes:
    """Return the SHA-256 of params as float32: what leases and manifests name."""
    return hashlib.sha256(params.astype("<f4", copy=False).tobytes()).digest()


def parse_downlink(text: str) -> CodecSpec:
    """Return the codec of differences that ``text`` spells. Raises ConfigError."""
    spec = parse_codec(text)
    if spec.masked or spec.calibrated:
        raise ConfigError(f"{text!r}: differences are public: write it like topk-0.05/int8")
    return replace(spec, calibrated=True)


def check_model_type(text: str) -> str:
    """Return a number type that models can be published in. Raises ConfigError."""
    if text not in MODEL_TYPES:
        raise ConfigError(f"{text!r}: a model is published as {', '.join(MODEL_TYPES)}")
    return text


def model_to_bytes(params: Float32, model: str, layout: Layout) -> bytes:
    """Return a whole model as numbers of the type ``model``."""
    if model == FLOAT32:
        return params_to_bytes(params)
    bounded = np.clip(params, -LARGEST, LARGEST)
    return encode(
        bounded, _model_codec(model), layout, rounding_seed=_NO_SEED, support_seed=_NO_SEED
    )


def model_from_bytes(data: bytes, model: str, layout: Layout) -> Float32:
    """Return what `model_to_bytes` wrote. Raises RemoteProtocolError, as `decode` does."""
    if model == FLOAT32:
        return params_from_bytes(data, layout.size)
    try:
        spec = _model_codec(model)
    except ConfigError as error:
        raise RemoteProtocolError(refusals.WRONG_CODEC, str(error)) from None
    return decode(data, spec, layout, support_seed=_NO_SEED).dense()


def max_model_bytes(model: str, layout: Layout) -> int:
    """No model of this number type and layout is longer."""
    return max_body_bytes(_model_codec(model), layout)


def difference(
    params: Float32,
    hidden: Float32,
    codec: CodecSpec,
    subset: Subset,
    *,
    task: str,
    version: int,
    model: str = FLOAT32,
) -> Difference:
    """Return what moves ``hidden`` towards ``params``, which are finite, to make ``version``."""
    with np.errstate(over="ignore"):  # an infinity is clipped like the rest
        wanted = np.clip(subset.take(params) - subset.take(hidden), -LARGEST, LARGEST)
    seed = support_seed(task, version)
    body = encode(wanted, codec, subset.layout, rounding_seed=_NO_SEED, support_seed=seed)
    return Difference(str(codec), model, body)


def advanced(
    hidden: Float32, told: Difference, subset: Subset, *, task: str, version: int
) -> Float32:
    """Return the hidden state of ``version``, but for the rounding, from that of the one before.

    Raises RemoteProtocolError for a difference that is none for these params.
    """
    try:
        codec = parse_codec(told.codec)
    except ConfigError as error:
        raise RemoteProtocolError(refusals.WRONG_CODEC, str(error)) from None
    decoded = decode(told.body, codec, subset.layout, support_seed=support_seed(task, version))
    moved = np.array(subset.take(hidden))
    with np.errstate(over="ignore"):
        if decoded.indices is None:
            moved += decoded.values
        else:
            moved[decoded.indices] += decoded.values
    return subset.replaced(hidden, np.clip(moved, -LARGEST, LARGEST))


def rounded(params: Float32, model: str, layout: Layout) -> Float32:
    """Return params as numbers of the type ``model`` can say them. Raises as `model_from_bytes`."""
    if model == FLOAT32:
        return params
    try:
        data = model_to_bytes(params, model, layout)
    except ConfigError as error:
        raise RemoteProtocolError(refusals.WRONG_CODEC, str(error)) from None
    return model_from_bytes(data, model, layout)


def _model_codec(model: str) -> CodecSpec:
    return CodecSpec(DENSE, 1.0, check_model_type(model), calibrated=True)
