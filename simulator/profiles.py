"""Links by name: what a device of that kind can count on, for `link = "lte"` in a scenario.

Rates are what one device gets in ordinary use, not the standard's peak; latency is one way, from
device to broker. Where segments are lost, TCP may get less (`LinkProfile.tcp_bps`): 4.85 Mbit/s of
wifi, 2.4 of lte, 0.3 of satellite. They are round figures to compare methods by; measure your own
links, and write them into the scenario, where it matters.
"""

from collections.abc import Mapping
from typing import Final

from simulator.links import LinkProfile, Outage

_K: Final = 1_000.0
_M: Final = 1_000_000.0

PROFILES: Final[Mapping[str, LinkProfile]] = {
    # Fixed lines. Round trips as of access networks in the FCC's "Measuring Broadband America"
    # reports: fibre about 10 ms, DSL 30 to 40 ms; DSL's uplink is about a tenth of its downlink.
    "fibre": LinkProfile(up_bps=100 * _M, down_bps=100 * _M, latency_s=0.005, jitter_s=0.001),
    "dsl": LinkProfile(up_bps=1 * _M, down_bps=10 * _M, latency_s=0.018, jitter_s=0.005),
    # A crowded 2.4 GHz network: a small board's radio gives some 20 Mbit/s; the loss is what
    # link-layer retries leave.
    "wifi": LinkProfile(
        up_bps=20 * _M, down_bps=20 * _M, latency_s=0.01, jitter_s=0.02, loss=0.005
    ),
    # LTE category 1 has a peak of 5 Mbit/s up and 10 down (3GPP TS 36.306); half of that in use.
    "lte": LinkProfile(up_bps=2.5 * _M, down_bps=5 * _M, latency_s=0.03, jitter_s=0.02, loss=0.005),
    # LTE-M (category M1, release 13), half duplex: 375 kbit/s up, 300 down at its peak.
    "lte_m": LinkProfile(
        up_bps=200 * _K, down_bps=200 * _K, latency_s=0.1, jitter_s=0.05, loss=0.01
    ),
    # NB-IoT (category NB1, release 13): peaks of about 60 kbit/s up and 25 down; round trips of
    # one to ten seconds in coverage enhancement (3GPP TR 45.820 asks for at most 10 s).
    "nb_iot": LinkProfile(up_bps=20 * _K, down_bps=20 * _K, latency_s=0.8, jitter_s=0.8, loss=0.01),
    # GPRS, class 10: two slots up, four down, of about 10 kbit/s each.
    "gprs": LinkProfile(up_bps=20 * _K, down_bps=40 * _K, latency_s=0.35, jitter_s=0.2, loss=0.01),
    # A gateway that speaks MQTT for LoRa nodes: spreading factor 7 at 125 kHz is 5.5 kbit/s on the
    # air (Semtech AN1200.22); duty cycles of 1 % would leave far less to a single node.
    "lora_gateway": LinkProfile(
        up_bps=5 * _K, down_bps=5 * _K, latency_s=0.5, jitter_s=0.5, loss=0.02
    ),
    # Geostationary satellite: 36,000 km up and down again is a quarter of a second one way.
    "satellite": LinkProfile(
        up_bps=1 * _M, down_bps=10 * _M, latency_s=0.3, jitter_s=0.02, loss=0.005
    ),
    # A connection that is gone for 3 of every 10 seconds.
    "flapping": LinkProfile(
        up_bps=1 * _M,
        down_bps=1 * _M,
        latency_s=0.05,
        outages=(Outage(first_s=5.0, every_s=10.0, for_s=3.0),),
    ),
}
