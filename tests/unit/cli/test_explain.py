"""`modelwatch explain`: what is wrong with a question is said before anything is sent."""

from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console

from agents.explanations.answers import unexplained
from cli.bench.explanation_quality import TRIED, read_setting
from cli.explain import ExplainOptions, _picture, _questions, print_answers, read_pairs
from cli.times import duration
from runtime.errors import ConfigurationError
from runtime.settings import Settings
from schemas.base import utc_now
from schemas.explanation_options import read_options
from schemas.messages import Explanation, LogPosition


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "my picture.png"
    cv2.imwrite(str(path), np.arange(3072, dtype=np.uint8).reshape(32, 32, 3))
    return path


def test_numbers_words_and_truths_are_told_apart() -> None:
    given = ["n_segments=12", "threshold=0.9", "preset=article", "x=true", "y=a=b"]
    assert read_pairs(given) == {"n_segments": 12, "threshold": 0.9, "preset": "article", "x": True, "y": "a=b"}


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("1.5m", 90), ("2h", 7200), ("1d", 86_400)])
def test_times_have_a_unit(text: str, seconds: float) -> None:
    assert duration("--last", text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "1", "h", "-1h", "1w", "1h30m"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="no time such as"):
        duration("--last", text)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "say what to explain"),
        ({"request_id": "a", "all_outliers": True}, "say what to explain"),
        ({"request_id": "a", "method": "shap"}, "no method 'shap'"),
        ({"request_id": "a", "options": ("n_segments",)}, "is not NAME=VALUE"),
        ({"request_id": "a", "options": ("n_segments=0",)}, "option n_segments"),
        ({"image": Path("missing.png")}, "missing.png cannot be read"),
        ({"image": Path("words.txt")}, "words.txt is no image"),
    ],
)
def test_what_is_wrong_with_a_question_is_named(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        list(_questions(ExplainOptions(**fields), Settings()))


def test_an_image_goes_with_its_question(image: Path) -> None:
    [question] = _questions(ExplainOptions(image=image, options=("preset=article",)), Settings())
    assert question.request_id.startswith("my picture-") and question.options == {"preset": "article"}
    assert question.image is not None and question.image.shape == (32, 32, 3)
    with pytest.raises(ConfigurationError, match="no model 'other'"):
        list(_questions(ExplainOptions(image=image, model="other"), Settings()))


def test_a_picture_of_the_wrong_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    cv2.imwrite(str(path), np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(ConfigurationError, match="40x40"):
        list(_questions(ExplainOptions(image=path), Settings()))


def test_no_id_writes_outside_the_folder(tmp_path: Path) -> None:
    answer = Explanation(request_id="../../a b/c", model="m", method="anchors", outcome="ok", explained_at=utc_now())
    assert _picture(tmp_path, answer).parent == tmp_path


def test_every_setting_of_the_table_is_one_of_the_method() -> None:
    assert all(read_options("anchors", one) for one in TRIED)
    assert read_setting("perturbation=blur,n_segments=6") == {"perturbation": "blur", "n_segments": 6}
    with pytest.raises(ConfigurationError, match=r"--setting 'n_segment=6'"):
        read_setting("n_segment=6")


def test_an_id_and_a_label_of_strangers_are_no_markup(tmp_path: Path) -> None:
    text, hostile = StringIO(), "t1-[/bold]x[red]"
    answer = unexplained(
        hostile, "m", "1", "occlusion", "failed", "why [/red]", LogPosition(partition=0, offset=0, time=utc_now())
    )
    print_answers(Console(file=text, width=200), [answer.model_copy(update={"label": "[/]"})], tmp_path)
    assert text.getvalue().count(hostile) == 2
    assert "[/] " in text.getvalue() and "why [/red]" in text.getvalue()
