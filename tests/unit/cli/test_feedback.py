"""`modelwatch feedback`: the chosen accuracy is met to the nearest request, and bad files are said to be so."""

from datetime import datetime, timezone
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from cli.feedback import FeedbackOptions, arrange, choose_truths, send_feedback
from runtime.errors import ConfigurationError, TransientError
from runtime.settings import Settings
from schemas.messages import Feedback


@pytest.mark.parametrize("accuracy", [0.0, 0.4, 0.9, 1.0])
def test_the_share_of_right_answers_is_exact(accuracy: float) -> None:
    predicted = {f"id-{number}": number % 10 for number in range(1000)}
    truths = choose_truths(predicted, accuracy, 10, seed=1)
    assert sum(truths[name] == index for name, index in predicted.items()) == round(accuracy * 1000)
    assert all(0 <= truth < 10 for truth in truths.values())


def test_corrections_come_with_a_later_time_and_duplicates_say_the_same() -> None:
    truths = {f"id-{number}": number % 10 for number in range(500)}
    options = FeedbackOptions("p", shuffle=True, duplicates=0.5, corrections=0.5)
    messages = arrange(truths, options, 10, datetime.now(timezone.utc))
    assert len(messages) > 900
    final: dict[str, tuple[datetime, int | None]] = {}
    for one in messages:
        if one.request_id not in final or one.given_at > final[one.request_id][0]:
            final[one.request_id] = (one.given_at, one.truth_index)
    assert {name: index for name, (_, index) in final.items()} == truths
    assert any(one.truth_index != truths[one.request_id] for one in messages)


def test_a_bad_line_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "truth.csv"
    path.write_text("id,truth\na,3\nb\n")
    monkeypatch.setattr("cli.feedback.cluster_topics", lambda _settings: {"inference.feedback": 1})
    with pytest.raises(ConfigurationError, match="line 3"):
        send_feedback(FeedbackOptions(csv=path), Settings(), None)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="--prefix"):
        send_feedback(FeedbackOptions(), Settings(), None)  # type: ignore[arg-type]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder of one regression model."""
    folder = tmp_path / "models" / "crowd"
    folder.mkdir(parents=True)
    spec = {"name": "crowd", "version": "1", "task": "regression", "labels": ["people"]}
    spec |= {"input": {"shape": [4, 4, 3]}, "weights": {"framework": "null"}}
    (folder / "model.yaml").write_text(yaml.safe_dump(spec))
    return tmp_path / "models"


def test_a_file_about_a_regression_model_holds_numbers(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sent = tmp_path / "truth.csv", list[Feedback]()
    path.write_text("id,truth\na,3\nb,-1.5e2\n")
    monkeypatch.setattr("cli.feedback.cluster_topics", lambda _settings: {"inference.feedback": 1})
    monkeypatch.setattr("cli.feedback._send", lambda _settings, messages, *_: sent.extend(messages))
    options = FeedbackOptions(csv=path, corrections=1.0, model="crowd")
    truths = send_feedback(options, Settings(models=models), Console(quiet=True))
    assert truths == {"a": 3.0, "b": -150.0}
    assert [(one.request_id, one.truth_value, one.truth_index) for one in sent] == [
        ("a", 4.0, None),
        ("b", -149.0, None),
        ("a", 3.0, None),
        ("b", -150.0, None),
    ]


@pytest.mark.parametrize("text", ["many", "nan", "-inf", "1e999"])
def test_what_is_no_number_is_named_with_its_line(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    path = tmp_path / "truth.csv"
    path.write_text(f"a,{text}\n")
    monkeypatch.setattr("cli.feedback.cluster_topics", lambda _settings: {"inference.feedback": 1})
    with pytest.raises(ConfigurationError, match=f"line 1: '{text}' is no number, and crowd is a regression model"):
        send_feedback(FeedbackOptions(csv=path, model="crowd"), Settings(models=models), Console(quiet=True))


def test_an_accuracy_of_a_regression_model_is_refused_with_the_remedy(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.feedback.cluster_topics", lambda _settings: {"inference.feedback": 1})
    with pytest.raises(ConfigurationError, match="--csv"):
        send_feedback(FeedbackOptions("p", accuracy=0.9, model="crowd"), Settings(models=models), Console(quiet=True))


def test_a_missing_topic_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.feedback.cluster_topics", lambda _settings: {})
    with pytest.raises(TransientError, match="modelwatch setup"):
        send_feedback(FeedbackOptions("p"), Settings(), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "text", "truth"),
    [
        (["1", "2", "3"], "id,truth_index\na,1\n", 1),
        (["1", "2", "3"], "id,truth_label\na,1\n", "1"),
        (["0", "1", "2"], "id,truth\na,1\n", 1),
        (["true", "false"], "a,true\n", "true"),
        (["cat", "7"], "id,truth_label\na,7\n", "7"),
        (["1", "2", "3"], "id,truth\na,1\n", "truth_index or id,truth_label"),
        (["cat", "ship"], "a,2\n", "line 1: '2' is not a class of m: an index from 0 to 1, or a label"),
        (["cat", "ship"], "id,truth_label\na,1\n", "line 2: '1' is no label of m: cat, ship"),
        (["cat", "ship"], "id,truth_index\na,cat\n", "line 2: 'cat' is not a class of m"),
    ],
)
def test_a_row_says_one_class_or_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: list[str], text: str, truth: int | str
) -> None:
    folder, path = tmp_path / "models" / "m", tmp_path / "truth.csv"
    folder.mkdir(parents=True)
    spec = {"name": "m", "version": "1", "labels": labels, "input": {"shape": [4, 4, 3]}}
    (folder / "model.yaml").write_text(yaml.safe_dump(spec | {"weights": {"framework": "null"}}))
    path.write_text(text)
    monkeypatch.setattr("cli.feedback.cluster_topics", lambda _settings: {"inference.feedback": 1})
    monkeypatch.setattr("cli.feedback._send", lambda *_: None)

    def told() -> object:
        options = FeedbackOptions(csv=path, model="m")
        return send_feedback(options, Settings(models=tmp_path / "models"), Console(quiet=True))["a"]

    if isinstance(truth, str) and truth not in labels:
        with pytest.raises(ConfigurationError, match=truth):
            told()
    else:
        assert told() == truth


def test_a_file_that_is_not_there_is_named_before_anything_else(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.csv is no file"):
        send_feedback(FeedbackOptions(csv=tmp_path / "nowhere.csv"), Settings(), Console())
