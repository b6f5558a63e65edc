"""A made-up board: the files below /sys, /proc and /run that a device reads of itself."""

from pathlib import Path


def plant(root: Path, files: dict[str, object]) -> None:
    """Write ``files`` (path below ``root`` -> contents), whole or not at all; None removes one."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.unlink(missing_ok=True)
        else:
            partial = path.with_name(f".{path.name}.partial")
            partial.write_text(f"{content}\n")
            partial.replace(path)


def supply(name: str, **files: object) -> dict[str, object]:
    """Return the files of one power supply."""
    return {f"sys/class/power_supply/{name}/{key}": value for key, value in files.items()}


def laptop(*, percent: int, charging: bool) -> dict[str, object]:
    """Return a battery and its charger."""
    status = "Charging" if charging else "Discharging"
    return {
        **supply("AC", type="Mains", online=int(charging)),
        **supply("BAT0", type="Battery", present=1, status=status, capacity=percent),
    }


def cpu(*, busy: int, idle: int) -> dict[str, object]:
    """Return the processor's times of two cores, in ticks of both together."""
    lines = [f"cpu  {busy} 0 0 {idle} 0 0 0 0 0 0", "cpu0 1 0", "cpu1 1 0", "intr 1"]
    return {"proc/stat": "\n".join(lines)}
