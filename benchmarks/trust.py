"""``trust``: who may join, what attackers cannot do, how much leaks, and what it costs.

- identity: signatures and sealing, for each update.
- robust: attackers among devices whose updates are seen one by one.
- rules: the same under the other robust rules.
- groups: attackers under masks, in groups.
- naming: who they are, after FedGT.
- lasting: whom that has thrown out after hundreds of buffers.
- privacy: accuracy under differential privacy, and whether members can be told from others.
- audit: gradient inversion on what a configuration reveals.
- flood: one device that publishes as fast as it can.
- tls: a thousand devices that all reconnect over mutual TLS.
"""

from typing import Final

#: The name of a part -> its module.
PARTS: Final = {
    name: f"benchmarks.trust_{name}"
    for name in (
        "identity",
        "robust",
        "rules",
        "groups",
        "naming",
        "lasting",
        "privacy",
        "audit",
        "flood",
        "tls",
    )
}
