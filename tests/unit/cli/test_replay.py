"""What an audit calls a difference: not what another processor's rounding does, nor what is gone."""

import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from agents.outliers.detector import OutlierDetector
from agents.outliers.verdicts import judge
from agents.pairs import ReadPair, read_pairs
from cli.replay.command import _print
from cli.replay.differences import Audit
from cli.replay.verdicts import TOLERANCE, _as_recorded, _compare
from runtime.model_folder import ModelFolder, load_model_folder, write_checksums
from runtime.settings import PROJECT_MODELS
from schemas.base import utc_now
from schemas.messages import Detector, OutlierVerdict
from schemas.pairs import PairWriter

DETECTOR = Detector(name="vae", version="1", sha256="a" * 64)
THRESHOLD = 0.005


def verdict(score: float) -> OutlierVerdict:
    return OutlierVerdict(
        request_id="one",
        model="m",
        score=score,
        threshold=THRESHOLD,
        is_outlier=score > THRESHOLD,
        detector=DETECTOR,
        scored_at=utc_now(),
    )


def audit(recorded: float, computed: float, **update: Any) -> Audit:
    """That of a recorded score, and of the score computed again."""
    found, one = Audit(), verdict(recorded)
    kept = one.model_dump(include={"score", "threshold", "is_outlier", "detector"}) | update
    _compare(found, verdict(computed), {"outlier": kept})
    return found


def test_another_processors_rounding_is_no_difference_and_more_than_that_is() -> None:
    assert audit(0.004, 0.004 + 0.9 * TOLERANCE * THRESHOLD).differences == []
    assert [one.field for one in audit(0.004, 0.004 + 1.1 * TOLERANCE * THRESHOLD).differences] == ["score"]


def test_a_verdict_that_turns_on_rounding_is_named_as_that() -> None:
    found = audit(THRESHOLD, THRESHOLD * (1 + TOLERANCE / 2))
    assert found.differences == []
    assert found.notes == ["one: verdict was False and is True: within the tolerance of its threshold"]


def test_a_verdict_that_turns_on_more_is_a_difference() -> None:
    assert [one.field for one in audit(0.004, 0.006).differences] == ["verdict", "score"]


@pytest.mark.parametrize("score", [0.004, 0.9])
def test_a_verdict_of_a_detector_that_is_gone_is_not_compared_and_said_to_be(score: float) -> None:
    found = audit(score, 0.004, detector=DETECTOR.model_copy(update={"sha256": "b" * 64}).model_dump())
    assert (found.compared, found.gone, found.differences) == (0, 1, [])
    assert "b" * 12 in found.notes[0] and "not here any more" in found.notes[0]


def test_what_no_record_says_is_a_difference() -> None:
    found = Audit()
    _compare(found, verdict(0.004), None)
    assert [one.field for one in found.differences] == ["record"]


def pairs_of(folder: ModelFolder, count: int) -> list[ReadPair]:
    images = np.random.default_rng(0).integers(0, 256, (count, *folder.spec.input.shape), np.uint8)
    now, labels = time.time(), folder.spec.labels
    writer = PairWriter(folder.spec.name, folder.spec.version, "ab" * 32, labels, "CPU:0")
    answers = np.full((count, len(labels)), 1 / len(labels), np.float32)
    ids, nothing = [f"r{number}" for number in range(count)], [0.0] * count
    values = writer.encode(
        ids, images, [{}] * count, [now] * count, [None] * count, answers, nothing, nothing, 0.0, count, now
    )
    messages = [SimpleNamespace(value=value, partition=0, offset=0, timestamp=now, headers=[]) for value in values]
    pairs, refused = read_pairs(messages, {folder.spec.name: folder.spec}, now, 300.0)
    assert not refused and len(pairs) == count
    return pairs


def retrained(folder: ModelFolder, path: Path) -> ModelFolder:
    """The same model with another detector."""
    shutil.copytree(folder.path, path)
    text = (path / "model.yaml").read_text()
    changed = text.replace(
        "  version: '1'\n  files: outliers\n  threshold: ", "  version: '0'\n  files: outliers\n  threshold: 9"
    )
    assert changed != text
    (path / "model.yaml").write_text(changed)
    write_checksums(path)
    return load_model_folder(path)


def test_a_verdict_is_computed_again_by_the_older_detector_that_its_record_names(tmp_path: Path) -> None:
    folder = load_model_folder(PROJECT_MODELS / "cifar10-resnet32")
    name, pairs = folder.spec.name, pairs_of(folder, 3)
    present = {name: OutlierDetector(folder)}
    older = {name: OutlierDetector(retrained(folder, tmp_path / "older"))}
    now, then = judge(pairs, present), judge(pairs, older)
    judged = [(read, verdict) for read, verdict in zip(pairs, now, strict=True) if verdict is not None]
    recorded = [now[0], then[1], then[2]]
    stored: list[dict[str, Any] | None] = [{"outlier": one.model_dump()} for one in recorded if one is not None]
    stored[2]["outlier"]["detector"]["sha256"] = "b" * 64  # type: ignore[index]
    for known, counts in (([older], (2, 1)), ([{}, older], (2, 1)), ([], (1, 2))):
        found = Audit()
        for verdict, record in zip(_as_recorded(judged, stored, known), stored, strict=True):
            _compare(found, verdict, record)
        assert (found.compared, found.gone, found.differences) == (*counts, [])


def test_the_summary_counts_windows_and_their_tests_apart(capsys: pytest.CaptureFixture[str]) -> None:
    found = Audit(compared=26)
    found.leave_out("w0", "no longer kept")
    for number in range(16):
        found.leave_test_out(f"w{number}", "the detector is not here any more")
    _print({"drift windows": found})
    said = " ".join(capsys.readouterr().out.split())
    assert "drift windows: 26 computed again but for 16 of their tests, 1 not, 0 differences" in said
