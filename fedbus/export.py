"""``fedbus export``: the newest model of a task as a ``.tflite`` file."""

import sys
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
import numpy.typing as npt
import typer

from aggregator.config import load_config
from aggregator.downlink import Downlink
from aggregator.store import open_store
from device_sdk.engine import Model, TrainingError, parse_spec
from device_sdk.engine.data import as_blocks
from device_sdk.engine.statistics import measure_statistics, needs_statistics
from device_sdk.runtimes import RuntimeMissingError, TfliteModel, find_runtime
from fedbus.download import download
from fedbus.listener import Unreachable, reader_settings
from fedbus.published import NewestModel
from fedbus.tls_options import CaOption, CertificateOption, KeyOption, tls_of
from fedbus.watch import (
    DeadlineOption,
    HostOption,
    NameOption,
    PasswordOption,
    PortOption,
    PrefixOption,
    ProtocolOption,
)
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.topics import DEFAULT_PREFIX, Topics
from transport import BrokerSettings

#: Samples that ranges are measured on and the file is tried with: more teach nothing new.
MAX_SAMPLES: Final = 500

TaskOption = Annotated[str, typer.Option("--task", "-t", help="The task whose model is meant.")]
ToOption = Annotated[Path, typer.Option("--to", help="The file to write.")]
Int8Option = Annotated[
    bool,
    typer.Option("--int8", help="Integers inside: a quarter of the size. Needs --calibration."),
]
CalibrationOption = Annotated[
    Path | None,
    typer.Option(help="An .npz whose x has representative samples: a hundred or more."),
]
BordersOption = Annotated[
    Literal["float32", "int8"],
    typer.Option(help="What an --int8 file takes and returns; int8 for microcontrollers."),
]
TrainingOption = Annotated[
    bool,
    typer.Option("--training", help='A file for devices with engine = "tflite": it trains.'),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="The aggregator's TOML file: read its store, not the broker. Stop it first.",
    ),
]


def export(
    task: TaskOption,
    to: ToOption,
    *,
    int8: Int8Option = False,
    calibration: CalibrationOption = None,
    borders: BordersOption = "float32",
    training: TrainingOption = False,
    config: ConfigOption = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 1883,
    prefix: PrefixOption = DEFAULT_PREFIX,
    username: NameOption = "",
    password_file: PasswordOption = None,
    protocol: ProtocolOption = "auto",
    ca_file: CaOption = None,
    certificate_file: CertificateOption = None,
    key_file: KeyOption = None,
    deadline: DeadlineOption = 10.0,
) -> None:
    """Write a task's newest model as a .tflite file, for TensorFlow Lite and LiteRT."""
    if int8 and calibration is None:
        raise ConfigError("--int8 needs --calibration: ranges come from real samples")
    if training and int8:
        raise ConfigError("--training and --int8: integers cannot be trained")
    samples = None if calibration is None else read_samples(calibration)
    if config is not None:
        newest = _stored(config, task)
    else:
        tls = tls_of(ca_file, certificate_file, key_file)
        settings = reader_settings(host, port, username, password_file, protocol, tls=tls)
        newest = _downloaded(settings, Topics(prefix, task), deadline)
    model = Model(parse_spec(newest.spec))
    if training:
        data = _with_training(model, f"fedbus task {task}")
        _write(to, data)
        typer.echo(f"{to}: trains task {task}'s model, without any params, {len(data)} bytes")
        return
    description = f"fedbus task {task}, version {newest.version}"
    params = _measured(model, newest.params, samples)
    ranges = samples if int8 else None
    data = _converted(model, params, ranges, description, float_borders=borders == "float32")
    _write(to, data)
    inside = "int8" if int8 else "float32"
    typer.echo(f"{to}: {description}, {inside}, {len(data)} bytes")
    if samples is not None:
        typer.echo(_trial(data, model, params, samples))


def read_samples(path: Path) -> npt.NDArray[np.generic]:
    """Return up to `MAX_SAMPLES` rows of ``x``, from all of it. Raises ConfigError."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            x: npt.NDArray[np.generic] = arrays["x"]
    except OSError as error:
        raise ConfigError(f"--calibration {path}: {error.strerror or error}") from None
    except Exception as error:
        # NumPy and zipfile meet damaged files with ten kinds of errors, and promise none.
        raise ConfigError(f"--calibration {path}: an .npz with an array x is needed") from error
    if not x.ndim or not len(x):
        raise ConfigError(f"--calibration {path}: x has no rows")
    rows = np.linspace(0, len(x) - 1, min(len(x), MAX_SAMPLES)).astype(int)
    chosen: npt.NDArray[np.generic] = x[rows]
    return chosen


def _measured(
    model: Model, params: npt.NDArray[np.float32], samples: npt.NDArray[np.generic] | None
) -> npt.NDArray[np.float32]:
    """Return params that predict: with the statistics that static batch_norm leaves to the end."""
    if not needs_statistics(model.spec):
        return params
    if samples is None:
        raise ConfigError(
            "the model has a static batch_norm, whose statistics are measured: give --calibration"
        )
    try:
        blocks = as_blocks((samples, np.zeros(len(samples))))
        return measure_statistics(model, params, blocks).astype(np.float32, copy=False)
    except TrainingError as error:
        raise ConfigError(f"--calibration: {error}") from None


def _converted(
    model: Model,
    params: npt.NDArray[np.float32],
    samples: npt.NDArray[np.generic] | None,
    description: str,
    *,
    float_borders: bool,
) -> bytes:
    try:
        from aggregator import export as exporter  # noqa: PLC0415 - its library is an extra
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    calibration = None
    if samples is not None:
        calibration = exporter.Calibration(samples, float_borders=float_borders)
    try:
        return exporter.export(model, params, calibration=calibration, description=description)
    except TrainingError as error:
        raise ConfigError(f"--calibration: {error}") from None


def _with_training(model: Model, description: str) -> bytes:
    """Return a file of a model that trains. Raises ConfigError for one that cannot."""
    try:
        from aggregator.export.training import export_training  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    return export_training(model, description=description)


def _missing(error: ModuleNotFoundError) -> ConfigError:
    return ConfigError(f"{error.name} is missing: pip install 'fedbus[export]'")


def _trial(
    data: bytes,
    model: Model,
    params: npt.NDArray[np.float32],
    samples: npt.NDArray[np.generic],
) -> str:
    """Say how near the file is to the engine, where a runtime is at hand."""
    try:
        runtime = find_runtime()
    except RuntimeMissingError as error:
        return f"not tried: {error}"
    found = TfliteModel(runtime.interpreter(data)).predict(samples)
    expected = model.predict(params, samples)
    largest = float(np.abs(found - expected).max())
    same = float(np.mean(found.argmax(axis=-1) == expected.argmax(axis=-1)))
    return (
        f"tried with {runtime.name} on {len(samples)} samples: the largest output is the same in"
        f" {same:.1%}, outputs differ by at most {largest:.3g}"
    )


def _stored(config: Path, task: str) -> NewestModel:
    """Return what the aggregator's store has. Raises ConfigError, StoreError."""
    checked = load_config(config)
    if checked.task.task != task:
        raise ConfigError(f"--task {task}: {config} is of task {checked.task.task}")
    store = open_store(Path(checked.state_dir), task, checked.database or None)
    try:
        snapshot = store.snapshot()
        version = snapshot.version
    finally:
        store.close()
    if version is None:
        raise ConfigError(f"{config}: the store has no version yet: start the aggregator once")
    settled = checked.task.settled(masked=checked.secure.enabled)
    downlink = Downlink(settled.bandwidth, settled.trained(), task)
    downlink.restore(version, snapshot.published, snapshot.live_params, ())
    return NewestModel(checked.task.model, downlink.hidden, version.version)


def _downloaded(settings: BrokerSettings, topics: Topics, deadline_s: float) -> NewestModel:
    """Return what the broker has; ends the command if it does not come in time."""
    try:
        return download(settings, topics, deadline_s)
    except (Unreachable, RemoteProtocolError) as error:
        where = f"the broker {settings.host}:{settings.port}, task {topics.task}"
        sys.stderr.write(f"fedbus: {where}: {error}\n")
        raise typer.Exit(1) from None


def _write(path: Path, data: bytes) -> None:
    """Write all of the file or nothing. Raises ConfigError."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        raise ConfigError(f"--to {path}: {error.strerror}") from None
