"""The ``[broker]`` table that devices and the aggregator share in their configuration files."""

from dataclasses import dataclass
from pathlib import Path

from protocol.errors import ConfigError
from transport.settings import AUTO, MQTT_3_1_1, MQTT_5, BrokerSettings, Will


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """Where the broker is and who we are there.

    ``password_file`` holds the password alone: secrets stay out of configuration files and out of
    process arguments. ``receive_maximum`` counts on the side that gets many messages.
    """

    host: str = "127.0.0.1"
    port: int = 1883
    username: str = ""
    password_file: str = ""
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
        try:
            self._settings("check", username=None, password=None, window=1, queue=1)
        except ValueError as error:
            raise ConfigError(str(error)) from None

    def settings(
        self, client_id: str, *, username: str, will: Will, window: int, queue: int
    ) -> BrokerSettings:
        """Return what a transport needs; reads ``password_file``.

        ``username`` counts where the file names none; ``window`` messages may be under way each
        way, ``queue`` wait at most. Raises ConfigError if the password cannot be read.
        """
        password = self._password()
        name = self.username or (username if password is not None else None)
        return self._settings(
            client_id, username=name, password=password, window=window, queue=queue, will=will
        )

    def _password(self) -> str | None:
        if not self.password_file:
            return None
        try:
            return Path(self.password_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"broker.password_file {self.password_file}: {error}") from None

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
        )
