"""What is retained, topic by topic: versions use the same ones in turn."""

import pytest

from aggregator.publication import Publication
from protocol.topics import SHELVES, Kind, Topics

TOPICS = Topics("p", "t")
OLD, NEW = (Kind.MODEL, 5), (Kind.MODEL, 5 + SHELVES)


@pytest.fixture
def publication() -> Publication:
    publication = Publication(TOPICS, 0)
    publication.chunk_bytes = 10
    return publication


def test_what_took_the_topic_of_another_is_not_cleared_with_it(publication: Publication) -> None:
    assert [each.topic for each in publication.add({OLD: bytes(35)})] == [
        TOPICS.model(5, index) for index in range(4)
    ]
    now = {NEW: bytes(12)}
    assert [each.topic for each in publication.add(now)] == [TOPICS.model(5, 0), TOPICS.model(5, 1)]
    cleared = publication.clear(now)
    assert [each.topic for each in cleared] == [TOPICS.model(5, 2), TOPICS.model(5, 3)]
    assert all(each.retain and not each.payload for each in cleared)
    assert not publication.clear(now)


def test_a_chunk_is_current_where_something_is_retained(publication: Publication) -> None:
    publication.add({NEW: bytes(12), (Kind.DIFFERENCE, 6): bytes(3)})
    current = [TOPICS.model(5, 0), TOPICS.model(5, 1), TOPICS.difference(6, 0)]
    left_over = [TOPICS.model(5, 2), TOPICS.difference(5, 0), TOPICS.model(6, 0), "p/t/model/261/0"]
    assert all(map(publication.is_current, current))
    assert not any(map(publication.is_current, left_over))
