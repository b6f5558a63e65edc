"""What waits for the broker over lost connections: everything once, in order."""

from hypothesis import given
from hypothesis import strategies as st

from transport.outbox import Outbox, Outgoing

messages = st.lists(
    st.builds(
        Outgoing,
        st.sampled_from("abc"),
        st.binary(max_size=3),
        st.sampled_from([0, 1]),
        st.booleans(),
        st.none(),
    ),
    max_size=30,
)


@given(messages, st.integers(0, 10))
def test_what_must_arrive_goes_out_again_in_order(given_: list[Outgoing], under_way: int) -> None:
    box = Outbox(max_queued=100, window=10)
    for each in given_:
        box.add(each)
    for packet_id in range(under_way):
        if (sent := box.next()) is not None:
            box.sent(packet_id, sent)
    lost = box.connection_lost()
    assert lost == sum(not each.qos for each in given_)
    again = list(iter(box.next, None))
    plain = [each for each in given_ if each.qos and not each.retain]
    assert [each for each in again if not each.retain] == plain
    newest = {each.topic: each for each in given_ if each.qos and each.retain}
    retained = [each for each in again if each.retain]
    assert {each.topic: each for each in retained} == newest
    assert len(retained) == len(newest)


def test_a_broker_that_never_acknowledges_does_not_fill_it() -> None:
    box = Outbox(max_queued=100, window=10)
    for _ in range(50):
        for topic in ("plan", "manifest"):
            box.add(Outgoing(topic, b"x" * 1000, 1, True, None))  # noqa: FBT003 - a plain record
        while (sent := box.next()) is not None:
            box.sent(len(box), sent)
        box.connection_lost()
    assert len(box) == 2
