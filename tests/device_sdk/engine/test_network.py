"""A network whose arrays share memory computes what one does whose arrays do not."""

import gc
import tracemalloc
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_sdk.engine import Model, ModelSpec, TrainingSettings, fit, parse_spec
from device_sdk.engine.arena import lay_out
from device_sdk.engine.data import as_blocks
from device_sdk.engine.layers import Frame
from device_sdk.engine.network import Network, views
from device_sdk.engine.plan import OVERHEAD_BYTES
from device_sdk.engine.selection import Selection, select
from protocol.errors import ConfigError
from protocol.stream import Stream

Floats = npt.NDArray[np.float64]
SEED = bytes(range(32))
DTYPE = np.dtype(np.float64)

WORDS_ALONE = ("relu", "relu6", "tanh", "sigmoid", "gelu", "leaky_relu", "layer_norm", "batch_norm")
ON_IMAGES: list[dict[str, Any]] = [
    *({"type": word} for word in WORDS_ALONE),
    {"type": "dropout", "rate": 0.3},
    {"type": "conv2d", "filters": 2, "kernel": 3, "padding": "same"},
    {"type": "conv2d", "filters": 2, "kernel": 1},
    {"type": "depthwise_conv2d", "kernel": 3, "padding": "same"},
    {"type": "max_pool", "size": 2, "stride": 1, "padding": "same"},
    {"type": "avg_pool", "size": 2, "stride": 1, "padding": "same"},
]
ADD: dict[str, Any] = {"type": "add"}


def spec_of(layers: Sequence[Mapping[str, Any]], sources: Sequence[int]) -> ModelSpec:
    """A chain over (5, 5, 2) that ends flat; the adds take turns with the ``sources``."""
    chain: list[dict[str, Any]] = []
    left = list(sources)
    for index, layer in enumerate(layers):
        each = {**layer, "name": f"layer {index}"}
        if layer is ADD:
            source = left.pop(0) % index if left and index else None
            each = {"type": "relu"} if source is None else {**each, "source": f"layer {source}"}
            each["name"] = f"layer {index}"
        chain.append(each)
    chain += [{"type": "flatten"}, {"type": "tanh"}, {"type": "dense", "units": 3}]
    return parse_spec({"input": [5, 5, 2], "layers": chain, "loss": "mean_squared_error"})


chains = st.builds(
    spec_of,
    st.lists(st.sampled_from([*ON_IMAGES, ADD, ADD, ADD]), max_size=6),
    st.lists(st.integers(0, 5), max_size=6),
)


def looks_at_each_sample_alone(spec: ModelSpec) -> bool:
    return not {"batch_norm", "dropout"} & set(spec.words)


def numbers(rows: int, shape: tuple[int, ...], label: int) -> Floats:
    flat = Stream(bytes([label]) * 32).uniform(rows * int(np.prod(shape)))
    return flat.reshape(rows, *shape).astype(np.float64) * 2 - 1


def first_params(spec: ModelSpec) -> Floats:
    params = Model(spec).init(SEED).astype(np.float64)
    return params + 0.1 * np.cos(np.arange(params.size))


def without_sharing(
    spec: ModelSpec, params: Floats, selection: Selection, x: Floats, y: Floats
) -> tuple[float, Floats]:
    """Loss and gradient, every array in memory of its own."""
    params, noise = params.copy(), Stream(bytes(32))
    frames: list[Frame] = []
    for index, layer in enumerate(spec.layers):
        below = frames[-1].y.copy() if frames else x.copy()
        buffers = layer.buffers(spec.shapes[index])
        saved, forward, backward = (
            tuple(np.zeros(each.for_rows(len(x)), each.dtype or DTYPE) for each in part)
            for part in (buffers.saved, buffers.forward, buffers.backward)
        )
        source = spec.sources[index]
        tensors = views(spec, params)[index]
        frame = Frame(
            params=tensors,
            gradients=tuple(np.zeros_like(each) for each in tensors),
            x=below,
            y=np.empty((len(x), *spec.shapes[index + 1])),
            saved=saved,
            forward=forward,
            backward=backward,
            source=None if source is None else frames[source].y.copy(),
            noise=noise,
            training=selection.takes_part(index),
        )
        layer.forward(frame)
        frames.append(frame)
    slopes = [np.zeros_like(frame.y) for frame in frames]
    loss = spec.loss.value(frames[-1].y.copy(), y, slopes[-1])
    for index in range(len(frames) - 1, -1, -1):
        dx = np.empty_like(frames[index].x)
        spec.layers[index].backward(frames[index], slopes[index].copy(), dx)
        if index:
            slopes[index - 1] += dx
        source = spec.sources[index]
        if source is not None:
            slopes[source] += slopes[index]
    chosen = [
        gradient.reshape(-1)
        for frame, trained in zip(frames, selection.trained, strict=True)
        for gradient, is_trained in zip(frame.gradients, trained, strict=True)
        if is_trained and gradient is not None
    ]
    return loss, np.concatenate(chosen)


@settings(max_examples=200, deadline=None)
@given(chains, st.integers(1, 4), st.integers(0, 3))
def test_sharing_memory_changes_no_number(spec: ModelSpec, rows: int, last: int) -> None:
    selection = select(spec, last=last or None)
    params = first_params(spec)
    x, y = numbers(rows, spec.input, 1), numbers(rows, spec.shapes[-1], 2)
    expected_loss, expected = without_sharing(spec, params, selection, x, y)
    gradient = np.full_like(expected, np.nan)
    network = Network(
        spec, params, 4, selection=selection, gradient=gradient, noise=Stream(bytes(32))
    )
    network.inputs(rows)[...] = x
    assert network.loss_and_gradient(y) == pytest.approx(expected_loss, rel=1e-12)
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-13)


@settings(max_examples=100, deadline=None)
@given(chains)
def test_predicting_is_the_same_in_less_memory(spec: ModelSpec) -> None:
    params, x = first_params(spec), numbers(3, spec.input, 1)
    frozen = Network(spec, params, 3)
    frozen.inputs(3)[...] = x
    outputs = frozen.forward().copy()
    for rows in range(3):  # each sample by itself
        frozen.inputs(1)[...] = x[rows : rows + 1]
        np.testing.assert_allclose(frozen.forward()[0], outputs[rows], rtol=1e-9, atol=1e-12)
    training = lay_out(spec, 3, DTYPE, select(spec))
    assert lay_out(spec, 3, DTYPE).num_bytes <= training.num_bytes


@settings(max_examples=100, deadline=None)
@given(chains, st.booleans())
def test_what_lives_together_does_not_overlap(spec: ModelSpec, accumulates: bool) -> None:  # noqa: FBT001
    arena = lay_out(spec, 3, DTYPE, select(spec), accumulates=accumulates)
    blocks = {id(arena.inputs.block): arena.inputs.block}
    for places in arena.layers:
        parts = [places.output, places.slope, *places.saved, *places.forward, *places.backward]
        for place in [*parts, *places.gradients]:
            if place is not None:
                blocks[id(place.block)] = place.block
    for one in blocks.values():
        assert 0 <= one.offset <= one.offset + one.num_bytes <= arena.num_bytes
        for other in blocks.values():
            apart = one.last < other.first or other.last < one.first
            beside = (
                one.offset + one.num_bytes <= other.offset
                or other.offset + other.num_bytes <= one.offset
            )
            assert one is other or apart or beside or not one.num_bytes


@settings(max_examples=60, deadline=None)
@given(chains.filter(looks_at_each_sample_alone), st.integers(1, 7))
def test_a_batch_in_parts_has_the_gradient_of_the_whole(spec: ModelSpec, rows: int) -> None:
    selection = select(spec)
    params = first_params(spec)
    x, y = numbers(7, spec.input, 1), numbers(7, spec.shapes[-1], 2)
    whole_loss, whole = without_sharing(spec, params, selection, x, y)
    gradient = np.zeros_like(whole)
    network = Network(spec, params, rows, selection=selection, gradient=gradient, accumulates=True)
    loss = 0.0
    for start in range(0, 7, rows):
        part = x[start : start + rows]
        network.inputs(len(part))[...] = part
        loss += network.loss_and_gradient(y[start : start + rows], 7)
    assert loss == pytest.approx(whole_loss, rel=1e-12)
    np.testing.assert_allclose(gradient, whole, rtol=1e-9, atol=1e-13)


IMAGES: dict[str, Any] = {
    "input": [12, 12, 2],
    "layers": [
        {"type": "conv2d", "filters": 8, "kernel": 3},
        {"type": "batch_norm"},
        {"type": "relu"},
        {"type": "depthwise_conv2d", "kernel": 3, "padding": "same", "name": "skip"},
        {"type": "conv2d", "filters": 8, "kernel": 1},
        {"type": "leaky_relu"},
        {"type": "add", "source": "skip"},
        {"type": "max_pool", "size": 2},
        {"type": "gelu"},
        {"type": "layer_norm"},
        {"type": "dropout", "rate": 0.2},
        {"type": "global_avg_pool"},
        {"type": "dense", "units": 4},
    ],
    "loss": "softmax_cross_entropy",
}
SEQUENCES: dict[str, Any] = {
    "input": [40, 6],
    "layers": [{"type": "gru", "units": 16}, {"type": "dense", "units": 4}],
    "loss": "softmax_cross_entropy",
}
WORDS: dict[str, Any] = {
    "input": [30],
    "layers": [
        {"type": "embedding", "vocabulary": 50, "dim": 16},
        {"type": "conv1d", "filters": 8, "kernel": 3},
        {"type": "relu6"},
        {"type": "avg_pool", "size": 2},
        {"type": "flatten"},
        {"type": "dense", "units": 4},
    ],
    "loss": "softmax_cross_entropy",
}


def samples(spec: ModelSpec, rows: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    x = Stream(bytes(32)).uniform(rows * int(np.prod(spec.input))).reshape(rows, *spec.input)
    if spec.words[0] == "embedding":
        x = np.floor(x * 50)
    return x, np.arange(rows) % 4


@pytest.mark.parametrize(
    ("mapping", "accumulates"),
    [(IMAGES, False), (SEQUENCES, True), (WORDS, False)],
    ids=["images", "gru, in parts", "words"],
)
def test_a_hundred_steps_allocate_next_to_nothing(
    mapping: Mapping[str, object],
    accumulates: bool,  # noqa: FBT001
) -> None:
    spec = parse_spec(mapping)
    x, y = samples(spec, 32)
    params = Model(spec).init(SEED)
    selection = select(spec)
    network = Network(
        spec,
        params,
        32,
        selection=selection,
        gradient=np.zeros_like(params),
        accumulates=accumulates,
        noise=Stream(bytes(32)),
    )

    def step() -> None:
        network.inputs(32)[...] = x
        network.loss_and_gradient(y)
        network.settle()

    tracemalloc.start()
    for _ in range(30):  # NumPy keeps some small arrays for the next to come
        step()
    gc.collect()  # some views of older versions of NumPy wait for it
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(100):
        step()
    _, peak = tracemalloc.get_traced_memory()
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 32_000  # what is left of a page of noise, and caches: no array
    assert peak - before < OVERHEAD_BYTES  # buffers of some thousand numbers in NumPy itself


def train(mapping: Mapping[str, object], rows: int = 40, **keys: Any) -> npt.NDArray[np.float32]:
    model = Model(parse_spec(mapping))
    params = model.init(SEED)
    fit(model, params, as_blocks(samples(model.spec, rows)), TrainingSettings(**keys), SEED)
    return params


@pytest.mark.parametrize("patterns", [("*.bias",), ("12.dense.*",), ("0.conv2d.bias", "*.offset")])
def test_what_is_not_selected_stays_bit_for_bit(patterns: tuple[str, ...]) -> None:
    spec = parse_spec(IMAGES)
    before, after = Model(spec).init(SEED), train(IMAGES, trainable=patterns)
    chosen = select(spec, patterns)
    flags = [
        trained or moved
        for part in zip(chosen.trained, chosen.moved, strict=True)
        for trained, moved in zip(*part, strict=True)
    ]
    for flag, start, stop in zip(flags, spec.layout.bounds, spec.layout.bounds[1:], strict=False):
        assert np.array_equal(before[start:stop], after[start:stop]) is not flag


def test_the_last_layers_train_as_with_everything_below_frozen() -> None:
    spec = parse_spec(IMAGES)
    assert np.array_equal(train(IMAGES, trainable_last=1), train(IMAGES, trainable=("12.dense.*",)))
    assert select(spec, last=100) == select(spec)


def test_less_to_train_takes_less_memory() -> None:
    spec = parse_spec(IMAGES)
    sizes = [
        lay_out(spec, 8, DTYPE, select(spec, patterns)).num_bytes
        for patterns in (("12.dense.*",), ("4.conv2d.*", "12.dense.*"), ())
    ]
    assert lay_out(spec, 8, DTYPE).num_bytes <= sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize(
    ("patterns", "message"),
    [(("nothing",), "'nothing' is none of 0.conv2d.weight"), (("*.mean",), "nothing that follows")],
)
def test_a_selection_of_nothing_is_refused(patterns: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=f"trainable: {message}"):
        select(parse_spec(IMAGES), patterns)
