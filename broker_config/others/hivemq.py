"""HiveMQ CE with its File RBAC extension: accounts by password, over TLS.

The community edition does not take an account from a certificate; certificates are asked for all
the same, so that a password alone is not enough.
"""

import hashlib
from base64 import b64encode
from collections.abc import Mapping
from html import escape
from typing import Final

from broker_config.accounts import SERVICES, role_of
from broker_config.others.wanted import MADE, Wanted
from protocol.topics import Role

HASH_ROUNDS: Final = 100
"""What the extension's own tool uses; our passwords are random, which no rounds improve on."""

OWN: Final = "${{username}}"
_CONFIG: Final = """\
<?xml version="1.0" encoding="UTF-8" ?>
<!-- {made} -->
<hivemq>
  <listeners>
    <tls-tcp-listener>
      <port>{port}</port>
      <bind-address>0.0.0.0</bind-address>
      <tls>
        <protocols>
          <protocol>TLSv1.3</protocol>
          <protocol>TLSv1.2</protocol>
        </protocols>
        <keystore>
          <path>conf/broker.jks</path>
          <password>changeit</password>
          <private-key-password>changeit</private-key-password>
        </keystore>
        <truststore>
          <path>conf/authority.jks</path>
          <password>changeit</password>
        </truststore>
        <client-authentication-mode>REQUIRED</client-authentication-mode>
      </tls>
    </tls-tcp-listener>
  </listeners>
  <mqtt>
    <queued-messages>
      <max-queue-size>1000000</max-queue-size>
      <strategy>discard</strategy>
    </queued-messages>
    <receive-maximum>
      <server-receive-maximum>2000</server-receive-maximum>
    </receive-maximum>
    <packets>
      <max-packet-size>262144</max-packet-size>
    </packets>
    <session-expiry>
      <max-interval>1209600</max-interval>
    </session-expiry>
  </mqtt>
  <security>
    <allow-empty-client-id>
      <enabled>false</enabled>
    </allow-empty-client-id>
  </security>
</hivemq>
"""
_EXTENSION: Final = """\
<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<extension-configuration>
  <credentials-reload-interval>10</credentials-reload-interval>
  <password-type>HASHED</password-type>
</extension-configuration>
"""


def render(wanted: Wanted, passwords: Mapping[str, str], salt: bytes) -> dict[str, str]:
    """Return the broker's configuration, the extension's, and accounts with their rights.

    ``passwords`` has one for each service and device, ``salt`` is random.
    """
    accounts = (*SERVICES, *wanted.devices)
    users = "".join(_user(name, password_entry(passwords[name], salt)) for name in accounts)
    roles = "".join(_role(wanted, name, name) for name in SERVICES)
    roles += "".join(_role(wanted, each.value, OWN, each) for each in (Role.DEVICE, Role.NEWCOMER))
    credentials = (
        '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
        f"<!-- {MADE} -->\n<file-rbac>\n"
        f"  <users>\n{users}  </users>\n  <roles>\n{roles}  </roles>\n</file-rbac>\n"
    )
    return {
        "config.xml": _CONFIG.format(made=MADE, port=wanted.port),
        "extension-config.xml": _EXTENSION,
        "credentials.xml": credentials,
    }


def password_entry(password: str, salt: bytes) -> str:
    """Return a password as the extension stores it: PBKDF2 with SHA-512."""
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, HASH_ROUNDS)
    return f"{b64encode(salt).decode()}:{HASH_ROUNDS}:{b64encode(digest).decode()}"


def _user(name: str, entry: str) -> str:
    return (
        f"    <user>\n      <name>{escape(name)}</name>\n      <password>{entry}</password>\n"
        f"      <roles>\n        <id>{role_of(name).value}</id>\n      </roles>\n    </user>\n"
    )


def _role(wanted: Wanted, name: str, own: str, role: Role | None = None) -> str:
    """The extension takes the permissions in order and denies what none of them allows."""
    granted = [
        (activity, topic)
        for access, activity in (("write", "PUBLISH"), ("read", "SUBSCRIBE"))
        for topic in wanted.topics(own, access, role)
    ]
    permissions = "".join(
        f"        <permission>\n          <topic>{escape(topic)}</topic>\n"
        f"          <activity>{activity}</activity>\n        </permission>\n"
        for activity, topic in granted
    )
    return (
        f"    <role>\n      <id>{name}</id>\n      <permissions>\n{permissions}"
        "      </permissions>\n    </role>\n"
    )
