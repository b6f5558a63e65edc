"""A federation of real processes whose updates are masked, enrolled as an operator would."""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from aggregator.config import load_config
from device_sdk.answers import ANSWER
from device_sdk.holding import SHARE
from device_sdk.storage import Storage
from fedbus.announcements import Announcement, read_announcement
from fedbus.enrolment import enrol, enrol_next, newest_roster
from protocol.secagg.parameters import Parameters
from protocol.secagg.roster import Roster
from tests.support.federation import TASK, TOPICS, Federation, Settings

#: Ten times what a device of `tests.support.run_device` moves a param.
CLIP: Final = 0.01
AN_HOUR_S: Final = 3_600


class SecureFederation(Federation):
    """As `Federation`; all versions are kept.

    ``secure`` are settings of ``[secure]`` that differ from these, ``robust`` those of
    ``[robust]``; an epoch lasts ``valid_s``.
    """

    def __init__(
        self,
        folder: Path,
        devices: Iterable[str],
        *,
        secure: Settings | None = None,
        robust: Settings | None = None,
        valid_s: int = AN_HOUR_S,
        task: Settings | None = None,
        device: Settings | None = None,
        broker: str | None = None,
    ) -> None:
        self._secure: dict[str, object] = {
            "scheme": "seedmask",
            "clip": CLIP,
            "samples_cap": 10,
            "spare_wait_s": 0.2,
            "rosters": str(folder / "rosters"),
            **(secure or {}),
        }
        self._robust = robust or {}
        task = {"keep_versions": 10_000, "codec": "dense/float32", **(task or {})}
        self._task = task
        self._valid_s = valid_s
        super().__init__(folder, devices, task=task, device=device, broker=broker)

    # --- the operator ------------------------------------------------------------------------

    @property
    def roster(self) -> Roster:
        """The newest roster."""
        return newest_roster(self.operator)

    def parameters(self, num_devices: int) -> Parameters:
        """Return what the configuration makes of a cohort of so many."""
        config = load_config(self.config_path("aggregator"))
        size = config.task.trained().layout.size
        return config.secure.parameters(config.task, num_devices, size)

    def lay_next_roster(self, *, remove: Sequence[str] = ()) -> None:
        """Sign the next epoch's roster of those who announced a key, and lay it down."""
        made = enrol_next(
            self.operator, self.parameters, self.announced, remove=remove, valid_s=AN_HOUR_S
        )
        self._lay(made.roster_file)

    @property
    def announced(self) -> Mapping[str, Announcement]:
        """The epoch keys that devices announce in their births."""
        births = {name: self.monitor.latest(TOPICS.info(name)) for name in self.devices}
        found = {
            name: read_announcement(json.loads(birth).get("next_epoch"))
            for name, birth in births.items()
            if birth
        }
        return {name: announced for name, announced in found.items() if announced is not None}

    def _enrol(self) -> None:
        self.write_aggregator()
        parameters = self.parameters(len(self.devices))
        made = enrol(self.operator, parameters, TASK, self.devices, valid_s=self._valid_s)
        (self.folder / "rosters").mkdir()
        self._lay(made.roster_file)
        self._hand_out(made.keys_files)

    def _lay(self, roster: Path) -> None:
        """As a careful operator: whole or not at all."""
        beside = self.folder / "rosters" / "new"
        shutil.copy(roster, beside)
        beside.rename(beside.with_name(roster.name))

    def _aggregator_table(self, task: Settings) -> Settings:
        table = super()._aggregator_table(task)
        return {**table, "secure": self._secure, "robust": self._robust}

    # --- what they say and keep --------------------------------------------------------------

    @property
    def recoveries(self) -> list[dict[str, Any]]:
        """The closed buffers that wait for answers, as a subscriber sees them."""
        buffers = self.monitor.report("rounds").get("buffers", [])
        return [buffer for buffer in buffers if buffer["state"] == "recovering"]

    @property
    def journalled(self) -> set[str]:
        """The devices whose updates are in the journal."""
        rows = self.query("SELECT device FROM fedbus_journal JOIN fedbus_lease USING (lease_id)")
        return {device for (device,) in rows}

    @property
    def training(self) -> set[str]:
        """The devices that have a lease, and whose updates have not come."""
        rows = self.query(
            "SELECT device FROM fedbus_lease LEFT JOIN fedbus_journal USING (lease_id)"
            " WHERE sequence IS NULL AND counted_in IS NULL AND refused IS NULL"
        )
        return {device for (device,) in rows}

    @property
    def requests(self) -> int:
        """How many recovery requests the aggregator has stored and not finished."""
        [[count]] = self.query("SELECT COUNT(*) FROM fedbus_document WHERE key LIKE 'request/%'")
        return int(count)

    def stored_shares(self, name: str) -> set[str]:
        """Return the names of the shares in the storage of a device that is dead."""
        return {key for key in Storage(self.state_dir(name)).load() if key.startswith(SHARE)}

    def stored_answers(self, name: str) -> dict[str, bytes]:
        """Return the answers in the storage of a device that is dead."""
        stored = Storage(self.state_dir(name)).load()
        return {key: data for key, data in stored.items() if key.startswith(ANSWER)}
