"""Where and how to connect next: which address, with TLS or not, which version of MQTT."""

import ssl
from collections import deque
from collections.abc import Callable
from typing import Final

from transport.settings import AUTO, MQTT_3_1_1, MQTT_5, BrokerSettings
from transport.stream import Address, Stream, dial, dial_tls, resolve

_UNANSWERED: Final = 2


class Dialer:
    """Tries the addresses of the host one after the other, then looks the host up again.

    Plain TCP connects without waiting. TLS shakes hands before it returns, for at most the connect
    time-out, and so holds up a loop that drives others: use it for one connection a process.
    """

    def __init__(self, settings: BrokerSettings) -> None:
        self._settings = settings
        self._untried: deque[Address] = deque()
        self._context = _context(settings)

    @property
    def has_more(self) -> bool:
        """Whether another address of the same look-up is left to try."""
        return bool(self._untried)

    def dial(self, on_close: Callable[[], None]) -> Stream:
        """Begin to connect. Raise OSError if it fails at once."""
        settings = self._settings
        if not self._untried:
            self._untried.extend(resolve(settings.host, settings.port))
        address = self._untried.popleft()
        if self._context is None:
            return dial(address, on_close)
        return dial_tls(
            address,
            on_close,
            context=self._context,
            host=settings.host,
            timeout_s=settings.connect_timeout_s,
        )

    def succeeded(self) -> None:
        """The broker was there: the next look-up starts afresh."""
        self._untried.clear()


def _context(settings: BrokerSettings) -> ssl.SSLContext | None:
    tls = settings.tls
    if tls is None:
        return None
    context = ssl.create_default_context(cafile=tls.ca)
    if tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    return context


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
