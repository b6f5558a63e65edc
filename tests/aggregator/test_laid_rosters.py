"""Rosters in the operator's folder: what does not fit yet is not forgotten."""

import pytest

from aggregator.laid_rosters import LaidRosters
from protocol.errors import ConfigError
from protocol.secagg.messages import SignedRoster
from tests.aggregator.conftest import MakeSecure
from tests.support.enrolment import Cohort
from tests.support.secure_desk import NAMES, SecureDesk, enrol

OTHERS = ("h", "i", "j", "k", "l", "m", "n", "o")


class Folder:
    """What `aggregator.service` does with a folder of rosters, again and again."""

    def __init__(self, desk: SecureDesk, *rosters: Cohort) -> None:
        self.files = {f"{each.roster.cohort}.roster": each.signed for each in rosters}
        self.num_offered = 0
        self._desk = desk
        self._laid = LaidRosters()

    def look(self) -> list[str]:
        return self._laid.offer(self.files, self._desk.coordinator.epochs, self._take)

    def _take(self, signed: SignedRoster) -> None:
        self.num_offered += 1
        self._desk.roster(signed)


def test_a_roster_that_was_refused_opens_when_the_other_cohort_has_ended(
    make_secure: MakeSecure,
) -> None:
    desk = make_secure(valid_s=100)
    folder = Folder(desk, enrol(OTHERS, desk.config, desk.secure_config, name="more"))
    assert folder.look() == ["roster more.roster: wrong_roster: h is in two cohorts"]
    assert folder.look() == []
    assert folder.num_offered == 1, "nothing has changed: it is not even read"
    desk.wait(101)
    assert folder.look() == []
    assert desk.coordinator.epochs == "more=1"
    assert folder.look() == []
    assert folder.num_offered == 2


def test_a_roster_that_never_fits_is_spoken_of_once(make_secure: MakeSecure) -> None:
    desk = make_secure(valid_s=100)
    stranger = enrol(NAMES, desk.config, desk.secure_config, seed=bytes(32))
    folder = Folder(desk, stranger)
    assert len(folder.look()) == 1
    desk.wait(101)
    assert folder.look() == []
    assert folder.num_offered == 2


@pytest.mark.parametrize("is_new", [False, True])
def test_another_file_of_that_name_is_another_roster(*, is_new: bool) -> None:
    def refuse(_signed: SignedRoster) -> None:
        raise ConfigError("no")

    laid, wanted = LaidRosters(), ["roster a.roster: no; start again if the settings changed"]
    assert laid.offer({"a.roster": SignedRoster(b"1", b"")}, "all=1", refuse) == wanted
    second = SignedRoster(b"2" if is_new else b"1", b"")
    assert laid.offer({"a.roster": second}, "all=1", refuse) == (wanted if is_new else [])
