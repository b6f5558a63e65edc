"""``fedbus audit``: attack one's own task, and see what comes back."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.text import Text

from aggregator.config import AggregatorConfig, load_config
from device_sdk.engine import Model, TrainingError, load_npz
from fedbus.whole_files import check_file, write_whole
from protocol.errors import ConfigError
from protocol.stream import derive

PAGE: Final = "audit.html"
DOCUMENT: Final = "audit.json"
_STDOUT: Final = "-"

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", help="The aggregator's TOML file (`fedbus init`).")
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="An .npz with x and y like the devices' data; default: evaluation.file of the config,"
        " else numbers that are made up.",
    ),
]
SamplesOption = Annotated[
    int,
    typer.Option(min=0, max=10_000, help="Samples a device; 0: as few as the task allows."),
]
TrialsOption = Annotated[int, typer.Option(min=1, max=1000, help="Devices attacked each way.")]
StepsOption = Annotated[
    int,
    typer.Option(
        min=0, max=100_000, help="Of each search for samples; 0: by formula alone, in seconds."
    ),
]
OutOption = Annotated[Path, typer.Option(metavar="DIR", help="Where the report goes.")]
JsonOption = Annotated[
    str, typer.Option("--json", metavar="OUT", help="Also write audit.json here; -: to stdout.")
]
SeedOption = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of all that is drawn.")]


def audit(
    config: ConfigOption = Path("fed.toml"),
    *,
    data: DataOption = None,
    samples: SamplesOption = 0,
    trials: TrialsOption = 10,
    steps: StepsOption = 300,
    out: OutOption = Path("audit-report"),
    json: JsonOption = "",
    seed: SeedOption = 0,
) -> None:
    """Attack what a configuration reveals: gradient inversion, membership, a curious relay.

    Devices are made up from the data, train as the plan says, and send what the configuration
    makes of it; then each attack tries to get back what was to stay on the device. Nothing is
    connected to, and no running task is touched. The report is a folder: audit.html and audit.json.

    Exit status: 0; 1 if something shows that the configuration promises to hide.
    """
    console = Console(stderr=json == _STDOUT)
    _check_extra()
    _check_places(out, json)
    checked = load_config(config)
    words = ["fedbus", "audit", "--config", str(config)]
    words += [] if data is None else ["--data", str(data)]
    words += ["--samples", str(samples)] if samples else []
    words += ["--trials", str(trials), "--steps", str(steps), "--seed", str(seed)]
    raise typer.Exit(
        _run(
            checked,
            data,
            command=shlex.join(words),
            num_samples=samples or checked.task.min_samples,
            trials=trials,
            steps=steps,
            seed=derive(seed.to_bytes(32, "little"), "audit"),
            places=(out, json),
            console=console,
        )
    )


def _run(
    config: AggregatorConfig,
    file: Path | None,
    *,
    command: str,
    num_samples: int,
    trials: int,
    steps: int,
    seed: bytes,
    places: tuple[Path, str],
    console: Console,
) -> int:
    from fedbus.audit import attacks, inversion, report  # noqa: PLC0415 - behind an extra
    from fedbus.audit.scene import Data, Scene, made_up  # noqa: PLC0415 - as above

    path = file or (Path(config.evaluation.file) if config.evaluation.file else None)
    model = Model(config.task.model_spec())
    if path is None:
        found = made_up(model, seed)
    else:
        x, y = load_npz(path)
        try:
            model.check_batch(x, y)
        except TrainingError as error:
            raise ConfigError(f"{path}: {error}") from None
        found = Data(x, y, is_real=True)
    scene = Scene(config, found, num_samples=num_samples, seed=seed)
    search = inversion.Search(steps=steps) if steps else None
    effort = attacks.Effort(trials=trials, search=search)
    findings = []
    with console.status("attacking") as status:
        for finding in attacks.audit(scene, effort):
            findings.append(finding)
            status.update(f"attacking: {len(findings)} done, last {finding.attack}")
    made = report.Audit(
        command=command,
        task=config.task.task,
        facts=_facts(config, path, scene.num_devices, num_samples, len(found.y)),
        notes=_notes(config, is_real=found.is_real, is_lookup=scene.is_lookup),
        findings=findings,
    )
    folder, json = places
    document = report.to_json(made)
    write_whole(folder / DOCUMENT, document)
    write_whole(folder / PAGE, report.to_html(made))
    if json == _STDOUT:
        sys.stdout.buffer.write(document)
        sys.stdout.buffer.flush()
    elif json:
        write_whole(Path(json), document)
    console.print(report.table(made))
    console.print(Text(made.verdict, style="bold"), soft_wrap=True)
    for note in made.notes:
        console.print(Text(note, style="dim"), soft_wrap=True)
    console.print(Text(f"report: {folder / PAGE}"), soft_wrap=True)
    return int(bool(made.broken))


def _facts(
    config: AggregatorConfig, path: Path | None, num_devices: int, num_samples: int, num_rows: int
) -> list[str]:
    secure = config.secure
    masking = f"masked by {secure.scheme}" if secure.enabled else "every update in the open"
    codec = str(secure.codec) if secure.enabled else config.task.codec
    privacy = config.task.privacy
    promised = f"epsilon {privacy.epsilon:g} at delta {privacy.delta:g}, {privacy.mechanism}"
    source = "made-up numbers" if path is None else path.name
    return [
        f"{masking}, codec {codec}",
        promised if privacy.enabled else "no differential privacy",
        f"{num_devices} devices with {num_samples} samples each, of {num_rows} rows of {source}",
        f"training {dict(config.task.training)}",
    ]


def _notes(config: AggregatorConfig, *, is_real: bool, is_lookup: bool) -> list[str]:
    least = config.task.min_samples
    notes = [f"An update of one sample is the control: none is sent of fewer than {least}."]
    if not config.secure.enabled:
        notes.append(
            'secure.scheme = "none": the aggregator reads every device\'s update, and so does the'
            " broker unless devices seal them ([identity] seal)."
        )
    if not is_real:
        notes.append("Membership was not measured: bring data like the devices' with --data FILE.")
    if is_lookup:
        notes.append(
            "Inversion was not tried: samples name rows of a table; which, an update says."
        )
    return notes


def _check_places(folder: Path, json: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {folder}: {error.strerror}") from None
    check_file(folder / DOCUMENT, "--out")
    if json not in {"", _STDOUT}:
        check_file(Path(json), "--json")


def _check_extra() -> None:
    """Say what is missing before minutes are spent, not after."""
    try:
        import jinja2  # noqa: F401, PLC0415 - only whether it is there
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is missing: pip install 'fedbus[simulate]'") from None
