"""The ``[broker]`` table that devices and the aggregator share in their configuration files."""

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from protocol.errors import ConfigError
from transport.secret_files import read_secret_file
from transport.settings import (
    AUTO,
    MQTT_3_1_1,
    MQTT_5,
    TLS_1_2,
    TLS_1_3,
    BrokerSettings,
    Tls,
    Will,
)
from transport.tls import make_context

NONE: Final = "none"
#: The settings that name files, to be looked for beside the settings' own (`settings.beside`).
FILES: Final = (
    *("broker.password_file", "broker.ca_file"),
    *("broker.certificate_file", "broker.key_file"),
)
#: With TLS a broker that everybody comes back to at once has much to do before it answers. Who
#: gives up early has it do the same again.
_TLS_TIMEOUT_S: Final = 20.0
_PLAIN_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """Where the broker is and who we are there.

    ``password_file`` holds the password alone: secrets stay out of configuration files and out of
    process arguments. ``tls``: "auto" (where a file asks for it), "none", or the oldest version
    that will do, "1.2" or "1.3"; ``ca_file`` says whom to trust (empty: the system's authorities),
    ``certificate_file`` and ``key_file`` who we are; all PEM.
    """

    host: str = "127.0.0.1"
    port: int = 1883
    username: str = ""
    password_file: str = ""
    tls: str = AUTO
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    protocol: str = AUTO
    keepalive_s: int = 60
    session_expiry_s: int = 24 * 3600
    backoff_first_s: float = 1.0
    backoff_cap_s: float = 120.0

    def __post_init__(self) -> None:
        if not self.host:
            raise ConfigError("host must not be empty")
        if self.protocol not in {AUTO, MQTT_5, MQTT_3_1_1}:
            raise ConfigError(f"protocol {self.protocol!r}: use auto, 5 or 3.1.1")
        self._check_tls()
        try:
            self._settings("check", username=None, password=None, window=1, queue=1)
        except ValueError as error:
            raise ConfigError(str(error)) from None

    def settings(
        self, client_id: str, *, username: str, will: Will, window: int, queue: int
    ) -> BrokerSettings:
        """Return what a transport needs; reads ``password_file`` and the files of TLS.

        ``username`` counts where the file names none; ``window`` messages may be under way each
        way, ``queue`` wait at most. Raises ConfigError that names the file that will not do.
        """
        self.check_files()
        password = self._password()
        name = self.username or (username if password is not None else None)
        return self._settings(
            client_id, username=name, password=password, window=window, queue=queue, will=will
        )

    def check_files(self) -> None:
        """Read the files that are named. Raises ConfigError that names the one that will not do."""
        self._password()
        if self.files_of_tls is None:
            return
        try:
            make_context(self.files_of_tls)
        except ValueError as error:
            raise ConfigError(f"broker.{error}") from None

    @property
    def files_of_tls(self) -> Tls | None:
        """What the handshake needs; None: the connection is not encrypted."""
        given = [self.ca_file, self.certificate_file, self.key_file]
        if self.tls == NONE or (self.tls == AUTO and not any(given)):
            return None
        ca, certificate, key = (Path(name) if name else None for name in given)
        return Tls(ca, certificate, key, TLS_1_2 if self.tls == AUTO else self.tls)

    def _check_tls(self) -> None:
        if self.tls not in {AUTO, NONE, TLS_1_2, TLS_1_3}:
            raise ConfigError(f"tls {self.tls!r}: use auto, none, 1.2 or 1.3")
        if self.tls == NONE and (self.ca_file or self.certificate_file):
            raise ConfigError('tls = "none": leave out ca_file and certificate_file, too')
        if bool(self.certificate_file) != bool(self.key_file):
            raise ConfigError("certificate_file and key_file: one needs the other")
        if self.password_file and self.files_of_tls is None and self.tls != NONE:
            self._check_near()

    def _check_near(self) -> None:
        """A password in the clear must not leave the machine, unless somebody says that it may."""
        try:
            near = ip_address(self.host).is_loopback
        except ValueError:
            near = self.host == "localhost"
        if not near:
            raise ConfigError(
                f"password_file: the password would cross the network to {self.host} in the clear:"
                ' set ca_file for TLS, or tls = "none" if nobody else is on that network'
            )

    def _password(self) -> str | None:
        if not self.password_file:
            return None
        try:
            return read_secret_file(Path(self.password_file)).strip()
        except ConfigError as error:
            raise ConfigError(f"broker.password_file {error}") from None

    def _settings(
        self,
        client_id: str,
        *,
        username: str | None,
        password: str | None,
        window: int,
        queue: int,
        will: Will | None = None,
    ) -> BrokerSettings:
        return BrokerSettings(
            host=self.host,
            port=self.port,
            client_id=client_id,
            username=username,
            password=password,
            keepalive_s=self.keepalive_s,
            protocol=self.protocol,
            session_expiry_s=self.session_expiry_s,
            receive_maximum=window,
            send_window=window,
            max_queued=queue,
            max_received=max(queue, 64),
            backoff_first_s=self.backoff_first_s,
            backoff_cap_s=self.backoff_cap_s,
            will=will,
            tls=self.files_of_tls,
            connect_timeout_s=_TLS_TIMEOUT_S if self.files_of_tls else _PLAIN_TIMEOUT_S,
        )
