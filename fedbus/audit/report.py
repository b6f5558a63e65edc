"""What an audit found, as a table, as JSON and as a page."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from rich.table import Table
from rich.text import Text

from fedbus.audit.attacks import HIDDEN, INVERSION, MEMBERSHIP, PARTLY, RELAY, SHOWN, Finding

#: What each attack's figure is.
FIGURES: Final = {INVERSION: "correlation", RELAY: "correlation", MEMBERSHIP: "AUC"}
ABOUT: Final = {
    INVERSION: "Samples back from what they changed in the model (Geiping et al. 2020).",
    RELAY: "A broker that takes the shares of masks as they pass, alone or with holders.",
    MEMBERSHIP: "Who was trained on, by the loss (Yeom et al. 2018; Carlini et al. 2022).",
}
_STYLES: Final = {SHOWN: "red", PARTLY: "yellow", HIDDEN: "green"}


@dataclass(frozen=True, slots=True)
class Audit:
    """One audit: of which task, on what, how thoroughly, and what came of it."""

    command: str
    task: str
    facts: Sequence[str]
    notes: Sequence[str]
    findings: Sequence[Finding]

    @property
    def broken(self) -> list[Finding]:
        """The promises that are not kept."""
        return [finding for finding in self.findings if finding.is_broken]

    @property
    def is_telling(self) -> bool:
        """Whether all controls came out: else what is hidden may be so from a weak attack only."""
        controls = [finding for finding in self.findings if "control" in finding.seen]
        return all(finding.verdict == SHOWN for finding in controls)

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.broken:
            return f"BROKEN: {len(self.broken)} of the things that must be hidden are not"
        weak = "" if self.is_telling else "; but a control did not come out: raise --steps"
        shown = [f.seen for f in self.findings if f.verdict == SHOWN and "control" not in f.seen]
        if shown:
            return f"gives away: {'; '.join(shown)}{weak}"
        return f"nothing that the controls do not show as well was read in full{weak}"


def table(audit: Audit) -> Table:
    """Return the findings, for a terminal."""
    made = Table(title=f"audit of task {audit.task}", title_justify="left", expand=False)
    made.add_column("attack", no_wrap=True)
    made.add_column("on", min_width=18)
    for heading in ("r / AUC", "chance", "PSNR", "verdict"):
        made.add_column(heading, justify="right", no_wrap=True)
    for finding in audit.findings:
        made.add_row(
            finding.attack,
            finding.seen,
            f"{finding.value:.3f}",
            f"{finding.by_chance:.3f}",
            "" if finding.psnr is None else f"{finding.psnr:.1f} dB",
            Text(finding.verdict, style=_STYLES[finding.verdict]),
        )
    return made


def to_json(audit: Audit) -> bytes:
    """Return all of it, with the verdict and the broken promises."""
    document = {
        **asdict(audit),
        "findings": [
            {**asdict(finding), "figure": FIGURES[finding.attack], "broken": finding.is_broken}
            for finding in audit.findings
        ],
        "verdict": audit.verdict,
    }
    return (json.dumps(document, indent=2) + "\n").encode()


def to_html(audit: Audit) -> bytes:
    """Return a page that refers to nothing outside it. It takes the extra ``simulate``."""
    return _template().render(audit=audit, figures=FIGURES, about=ABOUT).encode()


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("fedbus.audit", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja")
