"""Where and how to connect next: which address, with TLS or not, which version of MQTT."""

from collections import deque
from collections.abc import Callable
from typing import Final

from transport.settings import AUTO, MQTT_3_1_1, MQTT_5, BrokerSettings
from transport.stream import Address, Secured, Stream, dial, resolve
from transport.tls import make_context

_UNANSWERED: Final = 2


class Dialer:
    """Tries the addresses of the host one after the other, then looks the host up again.

    Raises ValueError for files of TLS that will not do.
    """

    def __init__(self, settings: BrokerSettings) -> None:
        self._settings = settings
        self._untried: deque[Address] = deque()
        self._secured = (
            None if settings.tls is None else Secured(make_context(settings.tls), settings.host)
        )

    @property
    def has_more(self) -> bool:
        """Whether another address of the same look-up is left to try."""
        return bool(self._untried)

    def dial(self, on_close: Callable[[], None]) -> Stream:
        """Begin to connect. Raise OSError if it fails at once."""
        settings = self._settings
        if not self._untried:
            self._untried.extend(resolve(settings.host, settings.port))
        return dial(self._untried.popleft(), on_close, self._secured)

    def succeeded(self) -> None:
        """The broker was there: the next look-up starts afresh."""
        self._untried.clear()


class Version:
    """Which version of MQTT to speak. ``auto`` starts with 5.

    A clean "unsupported protocol version" switches to 3.1.1. Some brokers just close the socket,
    or say nothing: two CONNECTs without an answer switch as well, back and forth until the broker
    has accepted one of the two. What was accepted is remembered.
    """

    def __init__(self, wanted: str) -> None:
        self._auto = wanted == AUTO
        self.current = MQTT_5 if self._auto else wanted
        self._accepted = False
        self._unanswered = 0

    def accepted(self) -> None:
        """The broker took this version."""
        self._accepted = True
        self._unanswered = 0

    def unsupported(self) -> bool:
        """The broker said so; return whether there is another version to try."""
        if not self._auto or self.current == MQTT_3_1_1:
            return False
        self.current = MQTT_3_1_1
        return True

    def unanswered(self) -> bool:
        """The broker gave no CONNACK; return whether to try another version at once."""
        self._unanswered += 1
        if not self._auto or self._accepted or self._unanswered < _UNANSWERED:
            return False
        self._unanswered = 0
        self.current = MQTT_3_1_1 if self.current == MQTT_5 else MQTT_5
        return True
