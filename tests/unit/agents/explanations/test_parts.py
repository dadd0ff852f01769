"""The small parts: options, latest pairs, admission, policies, pictures, messages."""

import asyncio
from datetime import datetime, timedelta, timezone

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.explanations.admission import Admission
from agents.explanations.answers import document_of, explained, recorded
from agents.explanations.explainer import Answer, AskedModel, AskedVersion, ModelUnavailable
from agents.explanations.overlay import overlay_png
from agents.explanations.policies import Policies, is_one_in
from agents.explanations.questions import pixels_of, read_question, seconds_left, spec_of
from agents.explanations.recent_pairs import MOST_ANSWERS, KeptPair, RecentPairs
from runtime.model_folder import load_model_folders
from runtime.settings import PROJECT_MODELS
from schemas.base import utc_now
from schemas.explanation_options import METHODS, PRESETS, AnchorOptions, OcclusionOptions, read_options
from schemas.messages import ExplanationRequest, ImageDtype, InferenceResponse, LogPosition, Tensor, Timings
from schemas.model_spec import ExplanationPolicies, ModelSpec
from schemas.refusal import Refusal
from tests.unit.agents.explanations.models import picture

SPEC = load_model_folders(PROJECT_MODELS)["cifar10-resnet32"].spec
POSITION = LogPosition(partition=1, offset=7, time=utc_now())


# ------------------------------------------------------------------ options
def test_later_layers_win_and_a_preset_starts_anew() -> None:
    read = read_options("anchors", {"n_segments": 3, "beam_size": 2}, {"preset": "article", "seed": 4})
    assert isinstance(read, AnchorOptions)
    assert (read.n_segments, read.perturbation, read.tau, read.seed, read.beam_size) == (5, "mean", 0.25, 4, 1)
    assert read_options("anchors", {"n_segments": 3}, {"n_segments": 4}).n_segments == 4  # type: ignore[union-attr]
    assert isinstance(read_options("occlusion", {}), OcclusionOptions)
    assert set(PRESETS) == {"informative", "article"} and set(METHODS) == {"anchors", "occlusion"}


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("shap", {}, "no method 'shap'"),
        ("anchors", {"preset": "best"}, "no preset 'best'"),
        ("anchors", {"threshold": 2}, "option threshold"),
        ("anchors", {"treshold": 0.9}, "option treshold"),
        ("anchors", {"n_segments": 0}, "option n_segments"),
        ("occlusion", {"preset": "article"}, "option preset"),
    ],
)
def test_what_is_wrong_with_options_is_named(method: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(Refusal, match=said):
        read_options(method, options)


# ------------------------------------------------------------------ latest pairs
@given(st.lists(st.tuples(st.integers(0, 9), st.binary(max_size=20))), st.integers(0, 5), st.integers(0, 60))
def test_the_latest_pairs_are_kept_within_both_bounds(
    puts: list[tuple[int, bytes]], max_pairs: int, max_bytes: int
) -> None:
    recent = RecentPairs(max_pairs, max_bytes)
    for count, (number, value) in enumerate(puts, 1):
        recent.put(str(number), KeptPair(value, 0.0))
        kept = puts[count - len(recent) : count]
        assert len(recent) <= max_pairs and sum(len(own) for _, own in kept) <= max_bytes
        for name in range(10):
            own = [value for number, value in kept if number == name]
            assert [one.value for one in recent.get(str(name))] == own[-MOST_ANSWERS:]


def test_who_waits_for_a_pair_gets_it_even_when_nothing_is_kept() -> None:
    async def story() -> None:
        recent = RecentPairs(0, 0)
        waiting = [asyncio.ensure_future(recent.wait("a", 10)) for _ in range(2)]
        await asyncio.sleep(0)
        recent.put("b", KeptPair(b"other", 0.0))
        recent.put("a", KeptPair(b"pair", 0.0))
        assert await asyncio.gather(*waiting) == [KeptPair(b"pair", 0.0)] * 2
        assert await recent.wait("c", 0.01) is None
        assert not recent._waiting and len(recent) == 0

    asyncio.run(story())


# ------------------------------------------------------------------ admission
def test_a_question_is_refused_by_its_deadline_alone_however_many_are_in_hand() -> None:
    numbers: list[int] = []
    admission = Admission(at_once=2, changed=numbers.append)
    admission.took(3.0)
    for expected in range(400):
        assert admission.refusal(3600.0) is None
        admission.enter()
        assert numbers[-1] == expected + 1
        assert (admission.refusal(1.0) is None) == (expected == 0)
    for _ in range(398):
        admission.leave()
    assert admission.refusal(100.0) is None
    assert "its turn would come" in (admission.refusal(0.5) or "")


# ------------------------------------------------------------------ policies
def _spec(**policies: object) -> ModelSpec:
    own = SPEC.explanations.model_copy(update={"policies": ExplanationPolicies.model_validate(policies)})
    return SPEC.model_copy(update={"explanations": own})


def _response(confidence: float) -> InferenceResponse:
    return InferenceResponse(
        model="m",
        model_version="1",
        weights_sha256="ab",
        probabilities=(confidence, 1 - confidence),
        predicted=0,
        label="a",
        confidence=confidence,
        timings=Timings(queue=0, batch=0, compute=0),
        batch_size=1,
        device="cpu",
        answered_at=utc_now(),
    )


def test_a_low_confidence_is_a_reason_and_a_high_one_is_none() -> None:
    policies = Policies({"m": _spec(low_confidence=0.6)}, lambda: 0.0)
    assert policies.look_at_pairs
    wanted = policies.of_pair("a", _response(0.55))
    assert wanted is not None and wanted.policy == "low_confidence"
    assert policies.of_pair("a", _response(0.65)) is None


def test_without_policies_nobody_asks_and_pairs_are_not_even_read() -> None:
    policies = Policies({"m": _spec()}, lambda: 0.0)
    assert not policies.look_at_pairs
    assert policies.of_pair("a", _response(0.01)) is None


def test_one_in_n_is_about_one_in_n_and_always_the_same() -> None:
    policies = Policies({"m": _spec(one_in=10)}, lambda: 0.0)
    chosen = [name for name in map(str, range(5000)) if policies.of_pair(name, _response(0.9)) is not None]
    assert 400 < len(chosen) < 600
    assert chosen == [name for name in map(str, range(5000)) if is_one_in(name, 10)]


def test_all_policies_of_a_model_share_its_rate() -> None:
    now = [0.0]
    policies = Policies({"m": _spec(one_in=1, per_minute=60, burst=2)}, lambda: now[0])
    wanted = policies.of_pair("a", _response(0.9))
    assert wanted is not None
    assert [policies.within_rate(wanted) for _ in range(3)] == [True, True, False]
    now[0] = 1.0
    assert [policies.within_rate(wanted) for _ in range(2)] == [True, False]


# ------------------------------------------------------------------ questions
def _question(**fields: object) -> ExplanationRequest:
    return ExplanationRequest.model_validate({"request_id": "a", "asked_at": utc_now(), **fields})


def test_a_deadline_before_the_question_is_refused_and_a_passed_one_has_no_time_left() -> None:
    asked = datetime(2026, 1, 1, tzinfo=timezone.utc)
    with pytest.raises(Refusal, match="is not after the question"):
        seconds_left(_question(asked_at=asked, deadline=asked - timedelta(seconds=1)), 0.0, 10.0)
    late = _question(asked_at=asked, deadline=asked + timedelta(seconds=5))
    assert seconds_left(late, asked.timestamp() + 6, 10.0) == -1.0
    assert seconds_left(_question(), 0.0, 10.0) == 10.0
    far = _question(asked_at=asked, deadline=datetime(9999, 12, 31, tzinfo=timezone.utc))
    assert seconds_left(far, asked.timestamp(), 10.0) == 3600.0


def test_a_question_in_a_schema_registry_s_framing_is_told_so() -> None:
    with pytest.raises(Refusal, match="schema registry's framing"):
        read_question(b"\0\0\0\0\1" + _question().model_dump_json().encode())


@pytest.mark.parametrize("value", [None, b"", b"{", b"[]", b'{"request_id": "a"}'])
def test_what_is_no_question_is_refused(value: bytes | None) -> None:
    with pytest.raises(Refusal):
        read_question(value)


def test_pixels_are_those_that_the_model_sees() -> None:
    raw = np.arange(32 * 32 * 3, dtype=np.uint64).astype(np.uint8).reshape(32, 32, 3)
    whole = pixels_of(Tensor(dtype=ImageDtype.UINT8, shape=raw.shape, data=raw.tobytes()), SPEC)
    assert whole.dtype == np.float32 and np.array_equal(whole, raw.astype(np.float32) / np.float32(255))
    floating = Tensor(dtype=ImageDtype.FLOAT32, shape=raw.shape, data=whole.astype("<f4").tobytes())
    assert np.array_equal(pixels_of(floating, SPEC), whole)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1, 1.5])
def test_pixels_outside_0_to_1_are_refused(bad: float) -> None:
    raw = np.zeros((32, 32, 3), "<f4")
    raw[3, 4, 1] = bad
    with pytest.raises(Refusal):
        pixels_of(Tensor(dtype=ImageDtype.FLOAT32, shape=raw.shape, data=raw.tobytes()), SPEC)
    with pytest.raises(Refusal, match=r"image.shape is \(2, 2, 3\)"):
        pixels_of(Tensor(dtype=ImageDtype.UINT8, shape=(2, 2, 3), data=bytes(12)), SPEC)


# ------------------------------------------------------------------ pictures and messages
def _anchor() -> Answer:
    segments = np.zeros((32, 32), np.uint8)
    segments[:, 16:] = 1
    return Answer("ok", None, 9, segments, (1,), 0.99, 0.5, samples=300)


def test_the_overlay_shows_the_anchor_in_colour_and_the_rest_grey_and_dim() -> None:
    image = np.zeros((32, 32, 3), np.float32)
    image[:, :, 0] = 1.0  # red
    shown = cv2.imdecode(np.frombuffer(overlay_png(image, _anchor(), "truck"), np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape[0] > 256 and shown.shape[1] == 2 * 256 + 8
    assert shown[128, 128].tolist() == [0, 0, 255]
    inside, outside = shown[128, 264 + 192].tolist(), shown[128, 264 + 64].tolist()
    assert inside == [0, 0, 255]
    assert len(set(outside)) == 1 and outside[0] > 150


def test_the_overlay_of_importance_and_of_grey_images_can_be_read() -> None:
    importance = np.linspace(-0.1, 0.5, 32 * 32, dtype=np.float32).reshape(32, 32)
    png = overlay_png(picture(0)[:, :, :1], Answer("ok", predicted=1, importance=importance), "größe")
    assert cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR) is not None


def test_an_explanation_comes_back_from_its_record_as_it_was() -> None:
    question = _question(request_id="truck-1", asked_by="me")
    model = AskedModel(lambda images: images, float("inf"))
    version = AskedVersion(None, "1")
    version.check("2")
    made = explained(question, SPEC, picture(0), _anchor(), model, version, 0.25, POSITION)
    assert (made.model_version, made.reason) == (
        "2",
        "the pair was answered by version 1; this is what version 2 says",
    )
    assert (made.label, made.anchor, made.precision) == ("truck", (1,), 0.99)
    assert made.anchor_mask is not None and sum(made.anchor_mask.data) == 32 * 16
    document = document_of(made, "me")
    assert list(document["explanation"]) == ["anchors"] and document["explanation"]["anchors"]["asked_by"] == "me"
    assert recorded(document, "anchors") == made
    assert recorded(document, "occlusion") is None


def test_only_answers_of_image_classifiers_are_explained() -> None:
    numbers = SPEC.model_copy(update={"name": "n", "task": "regression", "labels": ("people",)})
    specs = {SPEC.name: SPEC, "n": numbers}
    assert spec_of(SPEC.name, specs) is SPEC
    with pytest.raises(Refusal, match="n is no classifier of images"):
        spec_of("n", specs)


def test_one_version_answers_an_explanation_and_none_but_the_one_wanted() -> None:
    version = AskedVersion("1", "1")
    version.check(None)
    version.check("1")
    assert (version.found, version.note) == ("1", None)
    with pytest.raises(Refusal, match="version 1 is no longer asked, 2 is in its place"):
        version.check("2")
    upgraded = AskedVersion(None, None)
    upgraded.check("1")
    with pytest.raises(ModelUnavailable, match="versions 1 and 2 answered within one explanation"):
        upgraded.check("2")
