"""What a device says of itself when it checks in."""

from device_sdk.abilities import CODECS, MASKED_CODECS
from protocol.messages import CheckIn


class CheckIns:
    """``certificate`` is empty without keys; ``masked``: of a secure task.

    ``is_unreachable``: the last model could not be put together. ``shows_certificate``: the
    aggregator has not answered yet, or asks for it.
    """

    def __init__(self, install_id: bytes, certificate: bytes, *, masked: bool) -> None:
        self.is_unreachable = False
        self.shows_certificate = True
        self._was_told = False
        self._install_id = install_id
        self._certificate = certificate
        self._masked = masked

    def next(
        self, held_version: int, num_samples: int, pending: bytes, *, fetching: bool
    ) -> CheckIn:
        """Return the next one.

        Without an answer only every other one says that the model is unreachable: an aggregator of
        old cannot read those that do. One whose lease the device is ``fetching`` for has named a
        model that is more than params, and can.
        """
        if self._masked:  # no more than masked updates reveal of it
            num_samples = 1 << (num_samples - 1).bit_length()
        self._was_told = self.is_unreachable and (fetching or not self._was_told)
        return CheckIn(
            self._install_id,
            held_version,
            num_samples,
            MASKED_CODECS if self._masked else CODECS,
            pending,
            int(self._was_told),
            self._certificate if self.shows_certificate else b"",
        )
