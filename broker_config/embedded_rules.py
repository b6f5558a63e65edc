"""What the embedded broker asks us: is this password right, may this account use this topic.

Loaded by amqtt in its own process, by name. Nothing else imports this module.
"""

from dataclasses import dataclass
from pathlib import Path

from amqtt.contexts import Action, BaseContext
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.session import Session

from broker_config.accounts import Rights
from broker_config.files import BrokerFiles, read_entries
from broker_config.mosquitto import is_password
from protocol.topics import DEFAULT_PREFIX


class Accounts(BaseAuthPlugin):  # type: ignore[misc]  # amqtt ships no types
    """Checks passwords against the file that mosquitto would read.

    Nobody is anonymous: amqtt queues nothing for an anonymous session that is away.
    """

    @dataclass
    class Config:
        """``directory`` is the broker's folder."""

        directory: str

    def __init__(self, context: BaseContext) -> None:
        super().__init__(context)
        self._passwords = BrokerFiles(Path(self.config.directory)).passwords

    async def authenticate(self, *, session: Session) -> bool:
        """Whether the account exists and the password is its own."""
        entry = read_entries(self._passwords).get(session.username or "")
        return entry is not None and is_password(entry, session.password or "")


class TopicRights(BaseTopicPlugin):  # type: ignore[misc]  # amqtt ships no types
    """The rules of `protocol.topics`, asked at every publish, subscribe and delivery."""

    @dataclass
    class Config:
        """``prefix`` stands before every topic."""

        prefix: str = DEFAULT_PREFIX

    def __init__(self, context: BaseContext) -> None:
        super().__init__(context)
        self._rights = Rights(self.config.prefix)

    async def topic_filtering(
        self,
        *,
        session: Session | None = None,
        topic: str | None = None,
        action: Action | None = None,
    ) -> bool:
        """Whether the session's account may do this with the topic or filter."""
        if session is None or session.username is None or topic is None:
            return False
        access = "write" if action is Action.PUBLISH else "read"
        return self._rights.may(session.username, access, topic)
