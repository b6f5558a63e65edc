"""A graph as the bytes of a ``.tflite`` file."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from aggregator.export import schema
from aggregator.export.graph import (
    BOOL,
    FLOAT,
    INT8,
    INT32,
    RESOURCE,
    Graph,
    Operation,
    Option,
    Value,
)
from aggregator.export.schema import Offset, Tables

#: What callers find the model by where there are several: `Interpreter.get_signature_runner`.
SIGNATURE: Final = "serving_default"
INPUT: Final = "x"
OUTPUT: Final = "y"


@dataclass(frozen=True, slots=True)
class _Kind:
    """An operator's table of options, and its versions for float32 and for int8."""

    options: str
    plain: int = 1
    quantised: int = 2


#: Every operator that we write. The versions are the oldest that can do what we ask for.
_KINDS: Final = {
    "ADD": _Kind("AddOptions"),
    "ASSIGN_VARIABLE": _Kind("AssignVariableOptions"),
    "AVERAGE_POOL_2D": _Kind("Pool2DOptions"),
    "BATCH_MATMUL": _Kind("BatchMatMulOptions"),
    "CAST": _Kind("CastOptions"),
    "CONV_2D": _Kind("Conv2DOptions", quantised=3),
    "DEPTHWISE_CONV_2D": _Kind("DepthwiseConv2DOptions", quantised=3),
    "DEQUANTIZE": _Kind("DequantizeOptions"),
    "DIV": _Kind("DivOptions"),
    "DYNAMIC_UPDATE_SLICE": _Kind("DynamicUpdateSliceOptions", quantised=1),
    "FULLY_CONNECTED": _Kind("FullyConnectedOptions", quantised=4),
    "GATHER": _Kind("GatherOptions"),
    "GELU": _Kind("GeluOptions"),
    "GREATER": _Kind("GreaterOptions"),
    "L2_NORMALIZATION": _Kind("L2NormOptions"),
    "LEAKY_RELU": _Kind("LeakyReluOptions"),
    "LESS": _Kind("LessOptions"),
    "LOGISTIC": _Kind(""),
    "LOG_SOFTMAX": _Kind("LogSoftmaxOptions"),
    "MAXIMUM": _Kind("MaximumMinimumOptions"),
    "MAX_POOL_2D": _Kind("Pool2DOptions"),
    "MEAN": _Kind("ReducerOptions"),
    "MUL": _Kind("MulOptions"),
    "NEG": _Kind("NegOptions"),
    "ONE_HOT": _Kind("OneHotOptions"),
    "PACK": _Kind("PackOptions"),
    "QUANTIZE": _Kind("QuantizeOptions", quantised=1),
    "READ_VARIABLE": _Kind("ReadVariableOptions"),
    "REDUCE_PROD": _Kind("ReducerOptions"),
    "RELU": _Kind(""),
    "RELU6": _Kind(""),
    "RESHAPE": _Kind("ReshapeOptions", quantised=1),
    "RSQRT": _Kind(""),
    "SHAPE": _Kind("ShapeOptions"),
    "SOFTMAX": _Kind("SoftmaxOptions"),
    "SPLIT": _Kind("SplitOptions"),
    "SUB": _Kind("SubOptions"),
    "SUM": _Kind("ReducerOptions"),
    "TANH": _Kind(""),
    "VAR_HANDLE": _Kind("VarHandleOptions"),
    "WHILE": _Kind("WhileOptions", quantised=1),
}
_TYPES: Final = {
    FLOAT: "FLOAT32",
    INT32: "INT32",
    INT8: "INT8",
    BOOL: "BOOL",
    RESOURCE: "RESOURCE",
}
#: Options that are text for the runtime, not a word of the schema.
_TEXTS: Final = {"shared_name"}


@dataclass(frozen=True, slots=True)
class Signature:
    """A graph that callers find by a ``key``, and its borders by names that only it has."""

    key: str
    graph: Graph
    inputs: Mapping[str, Value] = field(default_factory=dict)
    outputs: Mapping[str, Value] = field(default_factory=dict)


def write(graph: Graph, description: str) -> bytes:
    """Return the file of one graph."""
    inputs, outputs = {INPUT: graph.inputs[0]}, {OUTPUT: graph.outputs[0]}
    return write_all([Signature(SIGNATURE, graph, inputs, outputs)], description)


def write_all(signatures: Iterable[Signature], description: str) -> bytes:
    """Return the file of several graphs, which share variables; the first is the one that runs."""
    return _Writer(signatures).write(description)


class _Writer:
    """One file being written."""

    def __init__(self, signatures: Iterable[Signature]) -> None:
        self._tables = Tables()
        self._signatures = tuple(signatures)
        mains = [each.graph for each in self._signatures]
        self._graphs = mains + [inner for graph in mains for inner in graph.inner()]
        self._codes: dict[tuple[str, int], int] = {}
        # Buffer 0 is the empty one, of all that is no constant.
        self._buffers = [self._tables.table("Buffer")]

    def write(self, description: str) -> bytes:
        tables = self._tables
        graphs = tables.offsets([self._graph(graph) for graph in self._graphs])
        model = tables.table(
            "Model",
            Version=schema.VERSION,
            OperatorCodes=tables.offsets([self._code(*code) for code in self._codes]),
            Subgraphs=graphs,
            Description=tables.text(description),
            Buffers=tables.offsets(self._buffers),
            SignatureDefs=tables.offsets([self._signature(each) for each in self._signatures]),
        )
        return tables.finish(model)

    def _graph(self, graph: Graph) -> Offset:
        tables = self._tables
        values = list(graph.values())
        places = {id(value): place for place, value in enumerate(values)}
        borders = (*graph.inputs, *graph.outputs) if graph.any_batch else ()
        batched = {id(value) for value in borders if value.shape}
        tensors = [self._tensor(value, any_batch=id(value) in batched) for value in values]
        operations = [self._operation(each, places) for each in graph.operations]
        return tables.table(
            "SubGraph",
            Tensors=tables.offsets(tensors),
            Inputs=self._indices(graph.inputs, places),
            Outputs=self._indices(graph.outputs, places),
            Operators=tables.offsets(operations),
            Name=tables.text(graph.name),
        )

    def _tensor(self, value: Value, *, any_batch: bool) -> Offset:
        tables = self._tables
        fields: dict[str, int] = {
            "Shape": tables.numbers(value.shape, np.int32),
            "Type": schema.tensor_type(_TYPES[value.dtype]),
            "Buffer": self._buffer(value),
            "Name": tables.text(value.name),
            "HasRank": True,
        }
        if any_batch:
            fields["ShapeSignature"] = tables.numbers((-1, *value.shape[1:]), np.int32)
        if value.quantisation is not None:
            fields["Quantization"] = tables.table(
                "QuantizationParameters",
                Scale=tables.numbers(value.quantisation.scales, np.float32),
                ZeroPoint=tables.numbers(
                    [value.quantisation.zero_point] * len(value.quantisation.scales), np.int64
                ),
                QuantizedDimension=value.quantisation.axis,
            )
        return tables.table("Tensor", **fields)

    def _buffer(self, value: Value) -> int:
        if value.data is None:
            return 0
        data = self._tables.data(value.data)
        self._buffers.append(self._tables.table("Buffer", Data=data))
        return len(self._buffers) - 1

    def _operation(self, operation: Operation, places: dict[int, int]) -> Offset:
        tables = self._tables
        kind = _KINDS[operation.kind]
        code = (operation.kind, _version(kind, operation))
        fields: dict[str, int] = {
            "OpcodeIndex": self._codes.setdefault(code, len(self._codes)),
            "Inputs": self._indices(operation.inputs, places),
            "Outputs": self._indices(operation.outputs, places),
        }
        if kind.options:
            fields["BuiltinOptionsType"] = schema.options_type(kind.options)
            fields["BuiltinOptions"] = tables.table(kind.options, **self._options(operation))
        return tables.table("Operator", **fields)

    def _options(self, operation: Operation) -> dict[str, int | float]:
        options = {
            _field(key): self._option(key, value) for key, value in operation.options.items()
        }
        for role, graph in zip(("Cond", "Body"), operation.graphs, strict=False):
            options[f"{role}SubgraphIndex"] = self._graphs.index(graph)
        return options

    def _option(self, key: str, value: Option) -> int | float:
        if not isinstance(value, str):
            return value
        return self._tables.text(value) if key in _TEXTS else schema.word(value)

    def _code(self, kind: str, version: int) -> Offset:
        code = schema.operator(kind)
        return self._tables.table(
            "OperatorCode",
            BuiltinCode=code,
            DeprecatedBuiltinCode=schema.old_code(code),
            Version=version,
        )

    def _signature(self, signature: Signature) -> Offset:
        tables, graph = self._tables, signature.graph
        places = {id(value): place for place, value in enumerate(graph.values())}

        def named(values: Mapping[str, Value]) -> Offset:
            entries = []
            for name, value in values.items():
                text = tables.text(name)
                entries.append(tables.table("TensorMap", Name=text, TensorIndex=places[id(value)]))
            return tables.offsets(entries)

        return tables.table(
            "SignatureDef",
            Inputs=named(signature.inputs),
            Outputs=named(signature.outputs),
            SignatureKey=tables.text(signature.key),
            SubgraphIndex=self._graphs.index(graph),
        )

    def _indices(self, values: Sequence[Value], places: dict[int, int]) -> Offset:
        indices = [places[id(value)] for value in values]
        return self._tables.numbers(indices, np.int32)


def _version(kind: _Kind, operation: Operation) -> int:
    return kind.quantised if any(each.dtype == INT8 for each in operation.inputs) else kind.plain


def _field(key: str) -> str:
    """``stride_w`` is the schema's ``StrideW``."""
    return key.title().replace("_", "")
