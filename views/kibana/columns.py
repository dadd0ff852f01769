"""The columns and looks of Lens charts."""

from collections.abc import Mapping, Sequence
from typing import Any

Column = Mapping[str, Any]
RECORDS = "___records___"
"""What Lens calls the count of documents."""


def over_time() -> Column:
    """Buckets of `@timestamp`."""
    params = {"interval": "auto", "includeEmptyRows": True, "dropPartials": False}
    return _column("time", "date", "date_histogram", "@timestamp", True, "interval", params)


def by(field: str, label: str, order: str, kind: str = "string", size: int = 20) -> Column:
    """A bucket for each of a field's most frequent values.

    Args:
        order: id of the column by which they are ordered.
    """
    params = {
        "size": size,
        "orderBy": {"type": "column", "columnId": order},
        "orderDirection": "desc",
        "otherBucket": False,
        "missingBucket": False,
        "parentFormat": {"id": "terms"},
    }
    return _column(label, kind, "terms", field, True, "ordinal", params)


def spread(field: str, label: str) -> Column:
    """A histogram of a number."""
    params = {"type": "histogram", "ranges": [{"from": 0, "to": 1000, "label": ""}], "maxBars": "auto"}
    return _column(label, "number", "range", field, True, "interval", params)


def count(label: str = "records") -> Column:
    """The number of records."""
    return _column(label, "number", "count", RECORDS, False, "ratio", {"emptyAsNull": True})


def mean(field: str, label: str) -> Column:
    """The mean of a number."""
    return _column(label, "number", "average", field, False, "ratio", {"emptyAsNull": True})


def bars(x: str, ys: Sequence[str], split: str | None = None, kind: str = "bar_stacked") -> dict[str, Any]:
    """Bars or lines (`kind="line"`) over a bucket, one colour a value of `split`."""
    layer: dict[str, Any] = {
        "layerId": "layer",
        "layerType": "data",
        "seriesType": kind,
        "xAccessor": x,
        "accessors": list(ys),
    }
    if split is not None:
        layer["splitAccessor"] = split
    state = {
        "legend": {"isVisible": True, "position": "right"},
        "valueLabels": "hide",
        "preferredSeriesType": kind,
        "layers": [layer],
    }
    return {"type": "lnsXY", "state": state}


def number(metric: str) -> dict[str, Any]:
    """One large number."""
    return {"type": "lnsMetric", "state": {"layerId": "layer", "layerType": "data", "metricAccessor": metric}}


def grid(rows: Sequence[str], columns: Sequence[str], values: Sequence[str]) -> dict[str, Any]:
    """A table; the buckets in `columns` lie side by side."""
    shown = [
        *({"columnId": name, "isTransposed": False} for name in rows),
        *({"columnId": name, "isTransposed": True} for name in columns),
        *({"columnId": name, "isTransposed": False, "alignment": "right"} for name in values),
    ]
    return {"type": "lnsDatatable", "state": {"layerId": "layer", "layerType": "data", "columns": shown}}


def _column(
    label: str, kind: str, operation: str, field: str, bucketed: bool, scale: str, params: Mapping[str, Any]
) -> Column:
    return {
        "label": label,
        "customLabel": True,
        "dataType": kind,
        "operationType": operation,
        "sourceField": field,
        "isBucketed": bucketed,
        "scale": scale,
        "params": dict(params),
    }
