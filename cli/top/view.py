"""One frame of `modelwatch top`: readings into tables and panels. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from rich import box
from rich.columns import Columns
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cli.top.readings import UNKNOWN, Quantile, Readings, Scrape

BARS = "▁▂▃▄▅▆▇█"
PANEL_WIDTH, NARROW_PANEL = 52, 40
"""Columns that a panel has at least; the second where only one of the first would fit."""
LABELS_SHOWN = 3
NONE = Text("–", style="dim")
Line = tuple[str, RenderableType]
History = Mapping[str, Sequence[float]]
"""Answers a second at the latest readings, by model."""


class Frame:
    """What is on the screen at one moment; it fits itself to the width there is."""

    def __init__(self, readings: Readings, history: History, moment: datetime) -> None:
        self._readings = readings
        self._history = history
        self._moment = moment

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        least = PANEL_WIDTH if options.max_width >= 2 * PANEL_WIDTH else NARROW_PANEL
        width = options.max_width // max(1, options.max_width // least)
        yield self._title()
        yield processes_table(self._readings)
        for model in self._readings.models():
            yield Text(f"\n{model}", style="bold")
            panels = model_panels(self._readings, model, self._history.get(model, ()))
            yield Columns([_panel(title, lines, width) for title, lines in panels], padding=0)
        rest = (("Dead letters", dead_letters(self._readings)), ("Of no model here", unknown(self._readings)))
        yield Text()
        yield Columns([_panel(title, list(lines), width) for title, lines in rest], padding=0)

    def _title(self) -> Text:
        scrapes = self._readings.after.values()
        ready = sum(scrape.ready for scrape in scrapes)
        title = Text("modelwatch top  ", style="bold")
        title.append(f"{self._moment:%H:%M:%S}  ", style="not bold")
        title.append(f"{ready} of {len(scrapes)} processes ready", style="green" if ready == len(scrapes) else "red")
        return title


def processes_table(readings: Readings) -> Table:
    """A row a process: state, load, lag, records, dead letters."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("process", no_wrap=True)
    table.add_column("state")
    for name in ("CPU", "memory", "lag", "records/s", "dead letters"):
        table.add_column(name, justify="right", no_wrap=True)
    for scrape in readings.after.values():
        table.add_row(*process_row(scrape, readings))
    return table


def process_row(scrape: Scrape, readings: Readings) -> list[RenderableType]:
    """Its cells; those that a process cannot know while it is down are dashes."""
    if scrape.samples is None:
        state = Text(f"down: {scrape.note}, {scrape.url}", style="bold red")
        return [Text(scrape.name), state, *[NONE] * 5]
    before = readings.before.get(scrape.name)
    own = Readings({scrape.name: scrape}, {scrape.name: before} if before else {})
    state = Text("ready", style="green") if scrape.ready else Text(f"not ready: {scrape.note}", style="bold yellow")
    cpu, memory = own.rate("process_cpu_seconds_total"), own.figure("process_resident_memory_bytes")
    lag, letters = own.figure("modelwatch_consumer_lag"), own.total("modelwatch_dead_letters_total")
    return [
        Text(scrape.name),
        state,
        NONE if cpu is None else f"{cpu:.0%}",
        NONE if memory is None else f"{memory / (1 << 20):,.0f} MiB",
        NONE if lag is None else f"{own.total('modelwatch_consumer_lag'):,.0f}",
        rate(own.rate("modelwatch_records_total", outcome="written")),
        Text(f"{letters:,.0f}", style="yellow" if letters else ""),
    ]


def model_panels(readings: Readings, model: str, history: Sequence[float]) -> Iterator[tuple[str, list[Line]]]:
    """Titles and lines of a model's panels, in the order of an operator's questions."""
    yield "Answers", list(answers(readings, model, history))
    yield "Accuracy", list(accuracy(readings, model))
    yield "Outliers", list(outliers(readings, model))
    yield "Drift", list(drift(readings, model))
    yield "Explanations", list(explanations(readings, model))


def answers(readings: Readings, model: str, history: Sequence[float]) -> Iterator[Line]:
    """Is it fast?"""
    name = "modelwatch_requests_total"
    outcomes = readings.by_label(name, "outcome", model=model)
    yield "answers", Text.assemble(rate(readings.rate(name, model=model)), f", {sum(outcomes.values()):,.0f} in all")
    bad = {outcome: count for outcome, count in outcomes.items() if outcome != "ok" and count}
    if bad:
        yield "not ok", Text(_counts(bad), style="yellow")
    if history:
        yield "", Text(sparkline(history), style="cyan")
    for transport in ("kafka", "http"):
        marks = [
            readings.quantile("modelwatch_request_latency_seconds", share, model=model, transport=transport)
            for share in (0.5, 0.95, 0.99)
        ]
        if any(marks):
            yield f"{transport} p50 p95 p99", _quantiles(marks)
    batch = readings.mean("modelwatch_batch_size", model=model)
    if batch is not None:
        yield "batch", f"{batch:.1f} images on average"


def accuracy(readings: Readings, model: str) -> Iterator[Line]:
    """Is it right?"""
    for window in ("rolling", "lifetime"):
        value = readings.figure("modelwatch_accuracy", model=model, window=window)
        labelled = readings.total("modelwatch_labelled", model=model, window=window)
        text = f"{value:.1%} of {labelled:,.0f} labelled" if value is not None else "no labels yet"
        yield window, Text(text, style="bold" if value is not None else "dim")
    estimated = readings.figure("modelwatch_estimated_accuracy", model=model, window="latest")
    yield "estimated", _share(estimated)
    yield "label coverage", _share(readings.figure("modelwatch_label_coverage", model=model, window="latest"))
    feedback = readings.by_label("modelwatch_feedback_total", "outcome", model=model)
    yield "feedback", _counts({outcome: count for outcome, count in feedback.items() if count}) or NONE


def outliers(readings: Readings, model: str) -> Iterator[Line]:
    """Is this input strange?"""
    scored = readings.total("modelwatch_scored_total", model=model)
    flagged = readings.by_label("modelwatch_outliers_total", "label", model=model)
    speed = readings.rate("modelwatch_scored_total", model=model)
    yield "scored", Text.assemble(rate(speed), f", {scored:,.0f} in all")
    recent = readings.rate("modelwatch_outliers_total", model=model)
    if speed:
        yield "flagged now", f"{(recent or 0.0) / speed:.1%}"
    share = f", {sum(flagged.values()) / scored:.1%}" if scored else ""
    yield "flagged", Text(f"{sum(flagged.values()):,.0f}{share}", style="yellow" if flagged else "")
    threshold = readings.figure("modelwatch_outlier_threshold", model=model)
    median = readings.quantile("modelwatch_outlier_score", 0.5, model=model)
    if threshold is not None and median is not None:
        yield "median score", f"{median.value:.4g}, threshold {threshold:.4g}"
    if flagged:
        yield "most as", _counts(dict(list(flagged.items())[:LABELS_SHOWN]))


def drift(readings: Readings, model: str) -> Iterator[Line]:
    """Has the world changed?"""
    shown = sorted(readings.samples("modelwatch_drift_detected", model=model), key=str)
    several = len({labels["version"] for labels, _ in shown}) > 1
    for labels, detected in shown:
        detector, version = labels["detector"], labels["version"]
        name = f"{detector} {version}" if several else detector
        yield name, Text("DRIFT", style="bold red") if detected else Text("no drift", style="green")
        own = {"model": model, "version": version, "detector": detector}
        values = [value for _, value in readings.samples("modelwatch_drift_p_value", **own)]
        threshold = readings.figure("modelwatch_drift_threshold", **own)
        if values and threshold is not None:
            yield "  least p-value", f"{min(values):.2g}, drift below {threshold:.2g}"
        results = readings.by_label("modelwatch_drift_windows_total", "result", model=model, detector=detector)
        yield "  windows", f"{sum(results.values()):,.0f}, {results.get('drift', 0.0):,.0f} drifted"
    fill = readings.figure("modelwatch_drift_window_fill", model=model)
    yield "open window", NONE if fill is None else f"{fill:,.0f} pairs"


def explanations(readings: Readings, model: str) -> Iterator[Line]:
    """Why did it say that?"""
    outcomes = readings.by_label("modelwatch_explanations_total", "outcome", model=model)
    yield "answered", _counts({outcome: count for outcome, count in outcomes.items() if count}) or NONE
    yield "in hand", f"{readings.total('modelwatch_explanations_in_hand'):,.0f}, all models"
    seconds = readings.quantile("modelwatch_explanation_seconds", 0.5, model=model)
    if seconds is not None:
        yield "median time", _quantiles([seconds])
    precision = readings.mean("modelwatch_anchor_precision", model=model)
    coverage = readings.mean("modelwatch_anchor_coverage", model=model)
    if precision is not None and coverage is not None:
        yield "anchors, mean", f"precision {precision:.3f}, coverage {coverage:.3f}"


def dead_letters(readings: Readings) -> Iterator[Line]:
    """What was refused, by stage and reason."""
    seen = [
        (value, f"{labels['stage']}: {labels['reason']}")
        for labels, value in readings.samples("modelwatch_dead_letters_total")
        if value
    ]
    for value, text in sorted(seen, reverse=True):
        yield text, f"{value:,.0f}"
    if not seen:
        yield "none", ""


def unknown(readings: Readings) -> Iterator[Line]:
    """Requests, questions and feedback that name no model that is here."""
    seen = [
        (what, {outcome: count for outcome, count in readings.by_label(name, "outcome", model=label).items() if count})
        for what, name, label in (
            ("requests", "modelwatch_requests_total", UNKNOWN),
            ("questions", "modelwatch_explanations_total", UNKNOWN),
            ("feedback", "modelwatch_feedback_total", ""),
        )
    ]
    for what, counts in seen:
        if counts:
            yield what, _counts(counts)
    if not any(counts for _, counts in seen):
        yield "none", ""


def sparkline(values: Sequence[float]) -> str:
    """A bar a value, the highest full; nothing at all is the lowest bar."""
    highest = max(values, default=0.0)
    steps = [round(value / highest * (len(BARS) - 1)) if highest > 0 else 0 for value in values]
    return "".join(BARS[step] for step in steps)


def rate(value: float | None) -> Text:
    """So many a second; a dash before there are two readings."""
    if value is None:
        return NONE.copy()
    return Text(f"{value:,.0f}/s" if value >= 10 or value == 0 else f"{value:.1f}/s")


def _panel(title: str, lines: Sequence[Line], width: int) -> Panel:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    for name, value in lines:
        grid.add_row(Text(name), value if not isinstance(value, str) else Text(value))
    return Panel(Group(grid), title=title, title_align="left", width=width, border_style="cyan")


def _quantiles(marks: Sequence[Quantile | None]) -> Text:
    shown = [f"{mark.value * 1000:,.0f}" for mark in marks if mark is not None]
    recent = any(mark is not None and mark.recent for mark in marks)
    return Text.assemble(f"{'  '.join(shown)} ms", ("" if recent else "  (since start)", "dim"))


def _counts(counts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {count:,.0f}" for name, count in counts.items())


def _share(value: float | None) -> RenderableType:
    return NONE if value is None else f"{value:.1%}"
