"""An HTML page as a browser would read it, and whether it needs anything from elsewhere."""

import re
from html.parser import HTMLParser
from typing import Final

_VOID: Final = frozenset({"meta", "br", "link", "img", "hr", "input"})


class Page(HTMLParser):
    """What a browser would see."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in _VOID:
            self.open.append(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.append(value or "")
            if key in {"href", "src", "srcset", "action", "data", "poster", "xlink:href"}:
                self.links.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another"

    def handle_data(self, data: str) -> None:
        self.text += data


def assert_stands_alone(page: bytes) -> Page:
    """A page is whole, and refers to itself only."""
    seen = Page(page)
    assert seen.open == []
    assert all(link.startswith("#") for link in seen.links)
    assert not re.findall(rb"url\((?!#)|@import|https?:|<script", page)
    assert len(seen.ids) == len(set(seen.ids))
    return seen
