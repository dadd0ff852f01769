"""Tables of records from Elasticsearch, for panels that show single pairs."""

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import elasticsearch as elasticsearch_builders
from grafana_foundation_sdk.builders import table
from grafana_foundation_sdk.models import dashboard

from views.grafana.panels import NOTHING_YET, transformed

RECORDS = dashboard.DataSourceRef(type_val="elasticsearch", uid="modelwatch-records")
"""As grafana/provisioning/datasources names it."""
TIME = "@timestamp"
MOST = "100"


@dataclass(frozen=True, slots=True)
class Column:
    """A field of the records, and what it is called here."""

    field: str
    name: str


def records(title: str, text: str, query: str, columns: Sequence[Column]) -> table.Panel:
    """A table of the newest records that a Lucene query finds.

    Args:
        columns: shown, in order; the first is the time.
    """
    newest = (
        elasticsearch_builders.RawData()
        .id("1")
        .settings(elasticsearch_builders.ElasticsearchRawDataSettings().size(MOST))
    )
    target = elasticsearch_builders.Dataquery().query(query).metrics([newest]).bucket_aggs([]).time_field(TIME)
    target.ref_id("A").datasource(RECORDS)
    panel = table.Panel().title(title).description(text).unit("none").no_value(NOTHING_YET).span(24).height(10)
    panel.datasource(RECORDS).with_target(target).filterable(True)
    return transformed(
        panel,
        filterFieldsByName={"include": {"names": [column.field for column in columns]}},
        organize={
            "indexByName": {column.field: place for place, column in enumerate(columns)},
            "renameByName": {column.field: column.name for column in columns},
        },
    )
