"""The documents that the agents write: each message of the golden files, as a record, fits its index's mapping."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

from agents.confusion.records import report_record
from agents.drift.reports import records_of
from agents.drift.windows import Window
from agents.explanations.answers import document_of as explanation_document
from agents.outliers.records import document_of as pair_document
from agents.pairs import ReadPair
from runtime.elasticsearch_sink import Record
from runtime.record_indices import DRIFT, INFERENCES, PERFORMANCE, apply_templates
from schemas.messages import DriftReport, Explanation, InferencePair, OutlierVerdict, PerformanceReport, WindowStart
from tests.servers.record_bench import Bench, Store, client_of, run

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "v1"
VERDICT = OutlierVerdict.model_validate_json((GOLDEN / "OutlierVerdict.json").read_bytes())
START = WindowStart.model_validate_json((GOLDEN / "WindowStart.json").read_bytes())


def pair_record(content: bytes) -> Record:
    read = ReadPair(
        InferencePair.model_validate_json(content), SimpleNamespace(value=content, partition=0, offset=2**40)
    )
    return Record("", read.pair.request.request_id, pair_document(read, VERDICT), INFERENCES)


def explanation_record(content: bytes) -> Record:
    explanation = Explanation.model_validate_json(content)
    return Record("", explanation.request_id, explanation_document(explanation, "test"), INFERENCES)


def drift_record(content: bytes) -> Record:
    return records_of(Window([], "full", START), DriftReport.model_validate_json(content))[0]


def performance_record(content: bytes) -> Record:
    return report_record(PerformanceReport.model_validate_json(content))


MADE = {
    "InferencePair": (INFERENCES, pair_record),
    "Explanation": (INFERENCES, explanation_record),
    "DriftReport": (DRIFT, drift_record),
    "PerformanceReport": (PERFORMANCE, performance_record),
}
FILES = [path for name in MADE for path in sorted(GOLDEN.glob(f"{name}*.json")) if path.stem.split("-")[0] == name]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_message_as_a_record_fits_the_mapping(store: Store, unique: str, path: Path) -> None:
    kind, made_from = MADE[path.stem.split("-")[0]]
    index = f"modelwatch-{kind}-{unique}"
    record = dataclasses.replace(made_from(path.read_bytes()), index=index)

    async def test() -> None:
        async with client_of(store.url) as client:
            await apply_templates(client)
            made = Bench(client, index)
            await made.sink.write([record])
            assert (made.rejected, await made.stored()) == ([], {record.id: record.document})
            await client.indices.delete(index=index)

    run(test())
