"""Numbers that a device and its aggregator must agree on, as one JSON object on standard output.

    python -m tests.arm.numbers

``exact`` (hashes of bytes) must be the same everywhere; ``close`` (params after training, where
BLAS and libm choose the last bits) nearly so; ``about`` says where they were made.
"""

import json
import math
import platform
import sys
from collections.abc import Iterator, Mapping
from hashlib import sha256
from importlib.metadata import version
from typing import Any, Final

import numpy as np

from device_sdk.engine import Model, parse_spec
from device_sdk.trainer import Assignment, NumpyTrainer
from protocol.stream import Stream, derive
from protocol.vectors.packing import decode, encode, parse_codec
from tests.support import masked_sums

SEED: Final = bytes(range(32))
#: What is found missing on a 32-bit machine is found with sizes that no small integer holds.
NUM_DRAWN: Final = 100_003
#: A layer of each kind that has params.
MODELS: Final[Mapping[str, Mapping[str, Any]]] = {
    "dense": {
        "input": [12],
        "loss": "softmax_cross_entropy",
        "layers": [
            {"type": "dense", "units": 33, "init_scale": "glorot"},
            {"type": "tanh"},
            {"type": "dense", "units": 17},
            {"type": "relu"},
            {"type": "dense", "units": 5},
        ],
    },
    "images": {
        "input": [12, 10, 2],
        "loss": "softmax_cross_entropy",
        "layers": [
            {"type": "conv2d", "filters": 6, "kernel": 3, "padding": "same"},
            {"type": "batch_norm"},
            {"type": "relu"},
            {"type": "depthwise_conv2d", "kernel": 3, "stride": 2},
            {"type": "gelu"},
            {"type": "global_avg_pool"},
            {"type": "dense", "units": 5},
        ],
    },
    "sequences": {
        "input": [9, 3],
        "loss": "softmax_cross_entropy",
        "layers": [
            {"type": "conv1d", "filters": 8, "kernel": 3},
            {"type": "layer_norm"},
            {"type": "gru", "units": 7},
            {"type": "dense", "units": 5},
        ],
    },
    "words": {
        "input": [6],
        "loss": "softmax_cross_entropy",
        "layers": [
            {"type": "embedding", "vocabulary": 40, "dim": 5},
            {"type": "flatten"},
            {"type": "dense", "units": 5},
        ],
    },
}
CODECS: Final = ("dense/float32", "dense/float16", "topk-0.1/int8", "randk-0.05/int8")


def exact() -> dict[str, str]:
    """Return a hash for each name."""
    return {name: sha256(data).hexdigest() for name, data in _exact()}


def _exact() -> Iterator[tuple[str, bytes]]:
    for name, spec in MODELS.items():
        yield f"first params, {name}", Model(parse_spec(spec)).init(SEED).astype("<f4").tobytes()
    yield "order of samples", Stream(SEED).permutation(NUM_DRAWN).astype("<i8").tobytes()
    yield "integers", Stream(SEED).integers((1 << 40) + 15, NUM_DRAWN).astype("<i8").tobytes()
    yield "subset", Stream(SEED).subset(NUM_DRAWN, 777).astype("<i8").tobytes()
    layout = parse_spec(MODELS["images"]).layout
    drawn = Stream(derive(SEED, "delta")).uniform(layout.size) - np.float32(0.5)
    delta = drawn * drawn * drawn
    for spelled in CODECS:
        codec = parse_codec(spelled)
        body = encode(delta, codec, layout, rounding_seed=SEED, support_seed=SEED)
        yield f"{spelled} encoded", body
        dense = decode(body, codec, layout, support_seed=SEED).dense()
        yield f"{spelled} decoded", dense.astype("<f4").tobytes()
    for scheme in ("seedmask", "lightsecagg"):
        given = masked_sums.cohort(scheme, 10)
        dealt = {device: masked_sums.deal(given, device) for device in range(10)}
        yield (
            f"{scheme} shares",
            b"".join(dealt[device].shares.astype("<i8").tobytes() for device in dealt),
        )
        for device in (0, 9):
            yield f"{scheme} body {device}", masked_sums.body_of(given, dealt, device)
        left = masked_sums.story(given, "after upload", 2)
        sums, _ = masked_sums.sums_of(given, left)
        yield f"{scheme} sums", sums.astype("<i8").tobytes()


def close() -> dict[str, list[float]]:
    """Return the params of each model after a little training."""
    return {f"trained params, {name}": _trained(spec) for name, spec in MODELS.items()}


def _trained(spec: Mapping[str, Any]) -> list[float]:
    model = Model(parse_spec(spec))
    shape = (100, *spec["input"])
    x = Stream(derive(SEED, "x")).uniform(math.prod(shape)).reshape(shape)
    if spec["layers"][0]["type"] == "embedding":
        x = np.floor(x * spec["layers"][0]["vocabulary"])
    y = Stream(derive(SEED, "y")).integers(5, len(x))
    training = {"epochs": 2, "batch_size": 16, "learning_rate": 0.05, "momentum": 0.9}
    assignment = Assignment(model.init(SEED), version=0, model=spec, training=training, seed=SEED)
    trained = NumpyTrainer(data=(x, y)).train(assignment)
    return [float(each) for each in trained.params]


def about() -> dict[str, str]:
    """Return what made the numbers."""
    names = ("numpy", "pynacl", "msgpack", "paho-mqtt")
    return {
        "machine": f"{platform.machine()}, {8 * np.intp().itemsize} bit",
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }


def main() -> None:
    """Print them."""
    found: dict[str, Any] = {"about": about(), "exact": exact(), "close": close()}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
