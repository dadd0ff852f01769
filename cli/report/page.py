"""The page itself: evidence into one HTML file that needs nothing else, by the template beside this module."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from cli.report import charts
from cli.report.drawing import Chart
from cli.report.evidence import CLEAN, Delivery, Evidence, JudgedPicture, Latencies
from cli.report.pictures import data_uri, picture_uri, score_map_uri

ACCURACY_MARGIN = 0.03
"""Of the band about the accuracy that feedback was sent with."""
PARTS = (
    ("total", "in all"),
    ("queue", "waiting on the topic"),
    ("batch", "waiting for its batch"),
    ("compute", "model"),
)
"""Of a latency: attribute, and what it is to a reader."""
SECTIONS = (
    ("masks", "The truck behind masks"),
    ("outliers", "Outliers"),
    ("drift", "Drift"),
    ("accuracy", "Accuracy"),
    ("confusion", "Confusion"),
    ("explanation", "Explanation"),
    ("latency", "Latency"),
    ("delivery", "Delivery"),
    ("verdict", "Verdict"),
)
"""Anchor and heading of each, in order."""


@dataclass(frozen=True)
class ShownPicture:
    """A judged picture as the template needs it."""

    judged: JudgedPicture
    image: str
    score_map: str | None

    @property
    def alt(self) -> str:
        """What is to be seen, in words."""
        answer = f", answered {self.judged.label}" if self.judged.label else ""
        return f"{self.judged.caption}{answer}"


@dataclass(frozen=True)
class Tile:
    """A figure that is worth a large print."""

    value: str
    text: str


def render(evidence: Evidence) -> str:
    """The page as HTML; texts are escaped, and its policy forbids it to fetch or run anything."""
    environment = Environment(
        loader=PackageLoader("cli.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        evidence=evidence,
        sections=SECTIONS,
        tiles=list(tiles(evidence)),
        failed=[check["name"] for check in evidence.checks if not check["ok"]],
        masked=[shown(one) for one in evidence.masked],
        gallery=[shown(one) for one in evidence.gallery],
        charts=all_charts(evidence),
        overlay=_overlay(evidence),
        latency_rows=latency_rows(evidence.latencies),
        delivered=in_all(evidence.deliveries),
        letters=sorted(evidence.letters.items(), key=lambda item: (-item[1], item[0])),
        clean=CLEAN,
    )


def shown(picture: JudgedPicture) -> ShownPicture:
    """A picture with its pixels as addresses."""
    scored = score_map_uri(picture.score_map) if picture.score_map is not None else None
    return ShownPicture(picture, picture_uri(picture.image), scored)


def all_charts(evidence: Evidence) -> dict[str, Chart | list[Chart]]:
    """Those charts by name for which there is something to show."""
    made: dict[str, Chart | list[Chart]] = {}
    if evidence.masked and evidence.threshold is not None:
        made["masks"] = charts.masked_scores(evidence.masked, evidence.threshold)
    if evidence.scores and evidence.threshold is not None:
        made["scores"] = charts.score_distributions(evidence.scores, evidence.threshold)
    if evidence.windows:
        made["drift"] = charts.p_values(evidence.windows)
    phases = [phase for phase in evidence.feedback if phase.truths]
    if phases:
        made["accuracy"] = charts.accuracy_curve(phases, ACCURACY_MARGIN)
        made["confusion"] = [charts.confusion(phase, evidence.labels) for phase in phases]
    if evidence.latencies is not None and len(evidence.latencies.total):
        made["latency"] = charts.latency_histogram(evidence.latencies)
    return made


def tiles(evidence: Evidence) -> Iterator[Tile]:
    """The run in a few figures."""
    yield Tile(f"{evidence.counts.get('pairs', 0):,}", "images answered")
    if evidence.seconds.get("stream"):
        rate = evidence.counts["streamed"] / evidence.seconds["stream"]
        yield Tile(f"{rate:,.0f} /s", f"a burst of {evidence.counts['streamed']:,} images")
    if "http_request_median" in evidence.seconds:
        yield Tile(f"{evidence.seconds['http_request_median'] * 1000:.0f} ms", "median of a single HTTP request")
    if evidence.windows:
        drifted = sum(any(test.is_drift for test in one.report.detectors.values()) for one in evidence.windows)
        yield Tile(f"{drifted} of {len(evidence.windows)}", "windows drifted")
    if evidence.scores.get(CLEAN) and evidence.threshold is not None:
        share = float(np.mean(np.asarray(evidence.scores[CLEAN]) > evidence.threshold))
        yield Tile(f"{share:.1%}", "of clean images flagged as outliers")
    if evidence.explanation is not None and evidence.explanation.precision is not None:
        yield Tile(f"{evidence.explanation.precision:.3f}", "precision of the truck's anchor")
    yield Tile(
        f"{evidence.counts.get('dead_letters', 0)}", "dead letters, all on purpose" if evidence.ok else "dead letters"
    )


def in_all(deliveries: Sequence[Delivery]) -> Delivery:
    """The sum of all batches."""
    names = ("sent", "pairs", "records", "bad", "dead_letters")
    return Delivery("in all", *(sum(getattr(one, name) for one in deliveries) for name in names))


def latency_rows(latencies: Latencies | None) -> Sequence[tuple[str, Sequence[float]]]:
    """Part of the latency, and its median, 95th and 99th percentile in milliseconds."""
    if latencies is None or not len(latencies.total):
        return []
    return [
        (text, [float(one) * 1000 for one in np.percentile(getattr(latencies, name), (50, 95, 99))])
        for name, text in PARTS
    ]


def _overlay(evidence: Evidence) -> str | None:
    if evidence.explanation is None or evidence.explanation.overlay_png is None:
        return None
    return data_uri(evidence.explanation.overlay_png)
