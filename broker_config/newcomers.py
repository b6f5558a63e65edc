"""Accounts of one-time tokens at the broker whose folder is here: a password, and few rights.

What a device may, mosquitto's patterns would let a token's account do, too; so it is denied by name
all but what redeeming needs (`protocol.topics.Role.NEWCOMER`).
"""

from collections.abc import Mapping
from pathlib import Path

from broker_config import mosquitto
from broker_config.files import BrokerFiles, read_entries, write_entries
from broker_config.private_files import replace
from broker_config.revoke import file_errors_told, reload_broker
from protocol.joining import NEWCOMER


def admit(broker: Path, account: str, entry: str) -> None:
    """Let an account in with its line for the passwords. Raises ConfigError."""
    files = BrokerFiles(broker)
    with file_errors_told():
        rules = files.acl.read_text(encoding="utf-8")
        replace(files.acl, mosquitto.confine(rules, account).encode())  # before it can get in
        write_entries(files.passwords, {**read_entries(files.passwords), account: entry})
    reload_broker(broker)


def dismiss(broker: Path, accounts: set[str]) -> set[str]:
    """Take accounts away, whose connections end with them; return those that were there.

    Raises ConfigError.
    """
    files = BrokerFiles(broker)
    with file_errors_told():
        entries = read_entries(files.passwords)
        gone = accounts & entries.keys()
        if not gone:
            return gone
        write_entries(files.passwords, _without(entries, gone))
        rules = files.acl.read_text(encoding="utf-8")
        for account in gone:
            rules = mosquitto.unconfine(rules, account)
        replace(files.acl, rules.encode())
    reload_broker(broker)
    return gone


def accounts_of_tokens(broker: Path) -> set[str]:
    """Return the accounts of tokens that the broker lets in. Raises ConfigError."""
    with file_errors_told():
        entries = read_entries(BrokerFiles(broker).passwords)
    return {account for account in entries if account.startswith(NEWCOMER)}


def _without(entries: Mapping[str, str], gone: set[str]) -> dict[str, str]:
    return {name: entry for name, entry in entries.items() if name not in gone}
