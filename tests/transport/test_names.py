"""Topics, filters and settings that are refused before anything is sent."""

import pytest

from transport import BrokerSettings
from transport.names import check_filter, check_topic


@pytest.mark.parametrize("good", ["a", "a/b", "a/+/b", "+", "#", "a/#", "/", "+/+/#", "$share/g/a"])
def test_filters_that_mqtt_allows(good: str) -> None:
    check_filter(good)


@pytest.mark.parametrize("bad", ["", "a#", "a/#/b", "a+/b", "#/", "a\0", "ü" * 40_000])
def test_filters_that_it_does_not(bad: str) -> None:
    with pytest.raises(ValueError, match=r"bytes|stands alone"):
        check_filter(bad)


@pytest.mark.parametrize("bad", ["", "a/+", "#", "a\0b", "x" * 65_536])
def test_topics_that_it_does_not(bad: str) -> None:
    with pytest.raises(ValueError, match=r"bytes|wildcards"):
        check_topic(bad)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("client_id", ""),
        ("protocol", "4"),
        ("port", 0),
        ("keepalive_s", 0),
        ("receive_maximum", 65_536),
        ("max_queued", 0),
        ("backoff_first_s", 500.0),
    ],
)
def test_a_bad_setting_is_named(key: str, value: object) -> None:
    values = {"client_id": "a", key: value}
    with pytest.raises(ValueError, match=f"^{key}: "):
        BrokerSettings(**values)  # type: ignore[arg-type] # that is the point
