"""Protocol errors. Whose fault it was decides what the caller does."""


class ProtocolError(Exception):
    """The protocol was violated."""


class LocalProtocolError(ProtocolError):
    """We tried something the protocol forbids: a bug on this side, so let it crash."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something the protocol forbids: refuse it, count it, carry on.

    ``reason`` is a word of `protocol.refusals`: refusals are counted by it.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class ConfigError(ValueError):
    """A setting is missing, unknown or out of range; the message names the key and the mend."""
