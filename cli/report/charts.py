"""The page's charts: what each shows, from the evidence."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from cli.report.drawing import (
    BLUE,
    GREEN,
    MUTED,
    ORANGE,
    SHADE,
    TEXT,
    VERMILION,
    Chart,
    chart,
    one_axes,
    plain_numbers,
    shortened,
)
from cli.report.evidence import CLEAN, DriftWindow, FeedbackPhase, JudgedPicture, Latencies

LEAST_P_VALUE = 1e-30
"""Smaller ones are drawn here."""
ROLLING = 100
"""Images of the curve's rolling mean."""
MOST_ANNOTATED = 12
"""Classes up to which a heat map says its counts."""
UNNAMED = "_"
"""Label of what the legend leaves out."""
_MARKS = ((True, "o", "flagged", VERMILION, VERMILION), (False, "s", "passes", BLUE, "white"))


def masked_scores(pictures: Sequence[JudgedPicture], threshold: float) -> Chart:
    """Score by mask; filled where flagged."""

    def draw(figure: Figure, narrow: bool) -> None:
        axes = one_axes(figure)
        places = range(len(pictures))
        axes.plot(places, [one.score for one in pictures], color=BLUE, zorder=2)
        for flagged, marker, label, edge, face in _MARKS:
            chosen = [place for place in places if pictures[place].flagged == flagged]
            scores = [pictures[place].score for place in chosen]
            axes.scatter(chosen, scores, 40, marker=marker, zorder=3, label=label, facecolor=face, edgecolor=edge)
        _threshold(axes, threshold, f"threshold {threshold:.4f}")
        axes.set_xticks(list(places), [one.caption for one in pictures], rotation=60 if narrow else 0)
        axes.set_xlabel("masked square, pixels")
        axes.set_ylabel("outlier score")
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper left")

    first, last, flagged = pictures[0], pictures[-1], [one.caption for one in pictures if one.flagged]
    alt = (
        f"Outlier score of the truck by size of its mask: from {first.score:.4f} at {first.caption} to "
        f"{last.score:.4f} at {last.caption}; threshold {threshold:.4f}. Flagged: {', '.join(flagged) or 'none'}."
    )
    return chart(draw, alt, 3.2, 2.9)


def score_distributions(scores: Mapping[str, Sequence[float]], threshold: float) -> Chart:
    """How the outlier scores of each batch lie about the threshold."""
    names = list(scores)
    shares = {name: float(np.mean(np.asarray(values) > threshold)) for name, values in scores.items()}

    def draw(figure: Figure, narrow: bool) -> None:
        axes = one_axes(figure)
        boxes = axes.boxplot(
            [np.asarray(scores[name]) for name in names],
            orientation="horizontal",
            whis=(1, 99),
            showfliers=False,
            patch_artist=True,
            widths=0.55,
            medianprops={"color": TEXT},
        )
        for name, box in zip(names, boxes["boxes"], strict=True):
            box.set(facecolor="#cfe3f1" if name == CLEAN else SHADE, edgecolor=BLUE if name == CLEAN else VERMILION)
        axes.axvline(threshold, color=TEXT, linestyle="--", linewidth=1)
        axes.set_yticks(range(1, len(names) + 1), [f"{shortened(name)}\n{shares[name]:.1%} flagged" for name in names])
        axes.invert_yaxis()
        axes.set_xscale("log")
        plain_numbers(axes.xaxis)
        axes.set_xlabel(f"outlier score (log); dashed: threshold {threshold:.4f}")
        axes.grid(axis="y", visible=False)

    alt = "Share of images flagged as outliers: " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    return chart(draw, alt + ".", 0.9 + 0.48 * len(names))


def p_values(windows: Sequence[DriftWindow]) -> Chart:
    """p-value of every feature in every window, the corrupted windows shaded."""
    detectors = sorted({name for window in windows for name in window.report.detectors}, reverse=True)

    def draw(figure: Figure, narrow: bool) -> None:
        axes = one_axes(figure)
        for place, window in enumerate(windows):
            if window.phase != CLEAN:
                axes.axvspan(place - 0.5, place + 0.5, color=SHADE, linewidth=0, zorder=0)
        for number, (name, colour) in enumerate(zip(detectors, (BLUE, VERMILION, GREEN, ORANGE), strict=False)):
            _detector(axes, windows, name, colour, (number - (len(detectors) - 1) / 2) * 0.4)
        names = [shortened(window.phase.replace("_", " ")) for window in windows]
        axes.set_xticks(range(len(windows)), names, rotation=35 if narrow else 0)
        axes.set_xlim(-0.5, len(windows) - 0.5)
        axes.set_yscale("log")
        plain_numbers(axes.yaxis)
        axes.set_ylim(LEAST_P_VALUE / 30, 3)
        axes.set_ylabel("p-value (log)")
        axes.grid(axis="x", visible=False)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=1 if narrow else 2)

    told = [f"window {number}, {window.phase}: {_told(window)}" for number, window in enumerate(windows, 1)]
    return chart(draw, "p-values of drift by window. " + "; ".join(told) + ".", 3.7, 4.4)


def accuracy_curve(phases: Sequence[FeedbackPhase], margin: float) -> Chart:
    """Rolling and lifetime accuracy over the labelled images, from the records; and what the metric showed."""
    correct = [np.equal(phase.truths, phase.predicted) for phase in phases]
    lifetime = np.cumsum(np.concatenate(correct)) / np.arange(1, sum(map(len, correct)) + 1)

    def draw(figure: Figure, narrow: bool) -> None:
        axes = one_axes(figure)
        end = _phases(axes, phases, correct, margin)
        axes.plot(np.arange(1, end + 1), lifetime, color=MUTED, linestyle="--", label="all so far")
        axes.set_ylim(0, 1)
        axes.set_xlim(0, end)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlabel("labelled images, in order of answering")
        axes.set_ylabel("accuracy")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2 if narrow else 4)

    told = [
        f"feedback at {phase.accuracy:.0%}: "
        + ("no rolling accuracy" if phase.rolling is None else f"{phase.rolling:.1%}")
        for phase in phases
    ]
    return chart(draw, f"Rolling accuracy after {'; after '.join(told)}; over all {lifetime[-1]:.1%}.", 3.2)


def confusion(phase: FeedbackPhase, labels: Sequence[str]) -> Chart:
    """Counts by truth and answer."""
    counts = confusion_counts(phase, len(labels))
    names = [shortened(label, 11) for label in labels]

    def draw(figure: Figure, narrow: bool) -> None:
        axes = one_axes(figure)
        image = axes.pcolormesh(counts, cmap="cividis", edgecolors="white", linewidth=0.5)
        axes.invert_yaxis()
        axes.set_aspect("equal")
        axes.grid(visible=False)
        axes.set_xticks(np.arange(len(names)) + 0.5, names, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(np.arange(len(names)) + 0.5, names)
        axes.tick_params(length=0)
        axes.set_xlabel("answer")
        axes.set_ylabel("truth")
        if len(labels) <= MOST_ANNOTATED:
            for (row, column), count in np.ndenumerate(counts):
                colour = TEXT if count > counts.max() / 2 else "white"
                axes.text(column + 0.5, row + 0.5, str(count), ha="center", va="center", color=colour, fontsize=7)
        else:
            figure.colorbar(image, ax=axes, label="images")

    right = int(np.trace(counts))
    alt = f"Confusion matrix at {phase.accuracy:.0%}: {right} of {int(counts.sum())} on the diagonal."
    return chart(draw, alt, 4.4, 3.9, width=4.8)


def confusion_counts(phase: FeedbackPhase, classes: int) -> NDArray[np.int64]:
    """Counts (classes, classes): rows are the truth, columns the answer."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (np.asarray(phase.truths, int), np.asarray(phase.predicted, int)), 1)
    return counts


def latency_histogram(latencies: Latencies) -> Chart:
    """Of all answers, with the usual percentiles."""
    milliseconds = np.maximum(latencies.total * 1000, 0.1)
    marks = np.percentile(milliseconds, (50, 95, 99))

    def draw(figure: Figure, narrow: bool) -> None:
        axes = one_axes(figure)
        bins = np.geomspace(milliseconds.min() * 0.99, milliseconds.max() * 1.01, 24 if narrow else 40)
        axes.hist(milliseconds, bins=list(bins), color="#8fc1e3", edgecolor=BLUE, linewidth=0.6)
        styles = zip(("p50", "p95", "p99"), marks, ("-", "--", ":"), strict=True)
        for name, value, style in styles:
            axes.axvline(value, color=VERMILION, linestyle=style, label=f"{name} {value:,.0f} ms")
        axes.set_xscale("log")
        plain_numbers(axes.xaxis)
        marked = [step * power for power in (1, 10, 100, 1000, 10_000, 100_000) for step in (1, 2, 3, 5)]
        axes.set_xticks([one for one in marked if bins[0] <= one <= bins[-1]])
        axes.set_xlabel("latency, ms (log)")
        axes.set_ylabel("images")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)

    told = f"median {marks[0]:,.0f} ms, p95 {marks[1]:,.0f} ms, p99 {marks[2]:,.0f} ms"
    return chart(draw, f"Latency of {len(milliseconds):,} answers: {told}.", 3.0)


def _threshold(axes: Axes, value: float, text: str) -> None:
    axes.axhline(value, color=TEXT, linestyle="--", linewidth=1)
    axes.annotate(text, (1, value), (0, 3), ("axes fraction", "data"), "offset points", ha="right", fontsize=8)


def _detector(axes: Axes, windows: Sequence[DriftWindow], name: str, colour: str, shift: float) -> None:
    """One detector's p-values: a dot a feature, a diamond for the least, and its threshold as a line."""
    for place, window in enumerate(windows):
        test = window.report.detectors.get(name)
        if test is None:
            continue
        values = np.clip(test.p_values, LEAST_P_VALUE, 1)
        spread = place + shift + np.linspace(-0.14, 0.14, len(values))
        labels = (f"{name}: a feature", f"{name}: the least") if place == 0 else (UNNAMED, UNNAMED)
        axes.scatter(spread, values, color=colour, s=9, alpha=0.55, linewidths=0, label=labels[0])
        axes.scatter(place + shift, values.min(), color=colour, marker="D", s=42, edgecolor="white", label=labels[1])
        label = f"{name}: drift below {test.threshold:.2g}" if place == 0 else UNNAMED
        axes.hlines(test.threshold, place + shift - 0.18, place + shift + 0.18, color=colour, lw=1.6, label=label)


def _phases(axes: Axes, phases: Sequence[FeedbackPhase], correct: Sequence[NDArray[np.bool_]], margin: float) -> int:
    """Each phase's band, rolling mean, and the metric at its end, one after the other; returns where the last ends."""
    begin = 0
    names = (f"last {ROLLING} images", f"set accuracy ± {margin * 100:.0f} points", "metric, rolling")
    for phase, flags in zip(phases, correct, strict=True):
        curve, band, metric = names
        places, means = _rolling(flags)
        axes.plot(begin + places, means, color=BLUE, label=curve)
        span, lower, upper = (begin, begin + len(flags)), phase.accuracy - margin, phase.accuracy + margin
        axes.fill_between(span, lower, upper, color=ORANGE, alpha=0.3, linewidth=0, label=band)
        begin += len(flags)
        if phase.rolling is not None:
            axes.scatter(begin, phase.rolling, 34, color=VERMILION, marker="D", zorder=4, clip_on=False, label=metric)
        names = (UNNAMED,) * 3
    return begin


def _told(window: DriftWindow) -> str:
    return ", ".join(
        f"{name} {'drift' if test.is_drift else 'no drift'} (least p-value {min(test.p_values):.1e})"
        for name, test in sorted(window.report.detectors.items())
    )


def _rolling(flags: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ends and means of the last `ROLLING` flags, or of all where there are fewer."""
    length = min(ROLLING, len(flags))
    means = np.convolve(flags, np.full(length, 1 / length), "valid")
    return np.arange(length, len(flags) + 1), means
