"""The page says what the evidence holds, needs nothing else, and is fooled by no label."""

import base64
import re
from html.parser import HTMLParser

import pytest

from cli.report.evidence import Delivery, Evidence, FeedbackPhase
from cli.report.page import SECTIONS, latency_rows, render, tiles
from tests.evidence import MOMENT, evidence, explanation, picture

FETCHING = {"src", "href", "srcset", "data", "action", "poster", "background"}
HOSTILE = "<script>alert(1)</script>\"'$x_{$&amp;"


class Page(HTMLParser):
    """What of a page matters here."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.pictures: list[dict[str, str]] = []
        self.ids: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.ids.add(given.get("id", ""))
        self.addresses += [value for name, value in given.items() if name in FETCHING]
        if tag == "img":
            self.pictures.append(given)

    def handle_data(self, data: str) -> None:
        self.text += f" {data.strip()}"

    @property
    def words(self) -> str:
        """Its text with single spaces."""
        return " ".join(self.text.split())


def drawings(page: Page) -> list[str]:
    """The SVGs in it."""
    begin = "data:image/svg+xml;base64,"
    return [base64.b64decode(one[len(begin) :]).decode() for one in page.addresses if one.startswith(begin)]


@pytest.fixture(scope="module")
def html() -> str:
    return render(evidence())


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def empty(**fields: object) -> Evidence:
    return Evidence(MOMENT, "m", "1", ("cat", "dog"), **fields)  # type: ignore[arg-type]


def test_every_section_is_there_and_linked(page: Page) -> None:
    for anchor, title in SECTIONS:
        assert anchor in page.ids and f"#{anchor}" in page.addresses and title in page.text
    assert "did not come to" not in page.words


def test_nothing_is_fetched_and_nothing_runs(html: str, page: Page) -> None:
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert not {"script", "link", "iframe", "object", "form"} & set(page.tags)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in html
    assert not re.search(r"url\(|@import|http", re.sub(r"data:image/[^\"]+", "", html).replace("http-equiv", ""))
    outside = [re.findall(r'(?:href|src)="(?!#)[^"]*"', drawing) for drawing in drawings(page)]
    assert outside and not any(outside)


def test_figures_are_those_of_the_evidence_with_their_units(page: Page) -> None:
    words = page.words
    for figure in ("score 0.0034", "score 0.0513", "99 s from start", "5 ms", "250 /s", "1,235", "98.7 %", "1.0 %"):
        assert figure in words, figure
    assert "0.987 of perturbed pictures" in words and "77 in 7 calls" in words and "0.25 s" in words
    assert "1e-40" in words and "▲ drift" in words and "no drift" in words
    assert "clean 1,234 1,234 1,234 21 21 ✓ yes" in words and "unreadable_image 12" in words
    assert "the truck is a truck truck truck (0.9999) ✓ yes" in words
    assert "✓ All 1 checks hold." in words


def test_every_picture_has_words_instead(page: Page) -> None:
    assert page.pictures and all(one["alt"] for one in page.pictures)
    told = " ".join(one["alt"] for one in page.pictures)
    assert "Flagged: 20×20" in told and "pixelate: untrained_encoder drift (least p-value 1.0e-40)" in told
    assert "after feedback at 90%: 90.0%" in told and "180 of 200 on the diagonal" in told


def test_flags_are_words_not_only_colours(page: Page) -> None:
    assert page.words.count("▲ flagged") == 2 and page.words.count(" passes ") == 1


def test_labels_and_reasons_are_escaped() -> None:
    hostile = evidence(
        model=HOSTILE,
        labels=(HOSTILE, "dog", "ship", "truck"),
        gallery=[picture(HOSTILE, 0.09, HOSTILE)],
        scores={HOSTILE: [0.001, 0.01]},
        explanation=explanation(label=HOSTILE, reason=HOSTILE),
        deliveries=[Delivery(HOSTILE, 1, 1, 1)],
        letters={HOSTILE: 1},
        checks=[{"name": HOSTILE, "expected": HOSTILE, "observed": HOSTILE, "ok": False}],
    )
    page = Page(render(hostile))
    assert "script" not in page.tags and page.text.count(HOSTILE) >= 8
    assert not any("<script" in drawing for drawing in drawings(page))


def test_failed_checks_stand_at_the_top() -> None:
    checks = [
        {"name": "the sky is blue", "expected": "blue", "observed": "green", "ok": False},
        {"name": "water is wet", "expected": "wet", "observed": "wet", "ok": True},
    ]
    words = Page(render(empty(checks=checks))).words
    assert "✗ 1 of 2 checks fail." in words and words.index("the sky is blue") < words.index("images answered")
    assert "the sky is blue blue green ✗ no" in words and "all on purpose" not in words


@pytest.mark.parametrize("cut_short", [empty(), empty(feedback=[FeedbackPhase(0.9, None, [], [])])])
def test_a_run_that_was_cut_short_still_has_a_page(cut_short: Evidence) -> None:
    page = Page(render(cut_short))
    assert {anchor for anchor, _ in SECTIONS} <= page.ids
    assert "This run did not come to a drift window." in page.words
    assert "✗ 0 of 0 checks fail." in page.words


def test_the_same_evidence_makes_the_same_page(html: str) -> None:
    assert render(evidence()) == html


def test_tiles_and_latencies_are_computed_from_the_evidence() -> None:
    shown = {tile.text: tile.value for tile in tiles(evidence())}
    assert shown["windows drifted"] == "1 of 2" and shown["of clean images flagged as outliers"] == "25.0%"
    [total, *_] = latency_rows(evidence().latencies)
    assert total[0] == "in all" and total[1][0] < total[1][1] < total[1][2]
    assert latency_rows(None) == []
