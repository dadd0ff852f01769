"""The messages on the topics, as pydantic models; `docs/messages.md` and the JSON Schemas are generated from here."""

from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from schemas.base import MAX_INTEGER, Attributes, Base64Bytes, Contract, Message, RequestId, Timestamp

Probability = Annotated[float, Field(ge=0, le=1)]
Matrix = tuple[tuple[int, ...], ...]
LabelsId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
"""See `schemas.identity.labels_id`."""
MAX_NUMBERS = 100_000
"""In a truth of one number a class."""
MAX_SECONDS = 253_402_300_800.0
"""The end of the year 9999, in seconds since the epoch."""
MAX_ROWS = 1024
"""Truths about one request of several images."""
LARGEST = 3.4028235e38
"""Greatest magnitude of a regression model's answer, and of a truth about it: what a float32 holds."""
Error = Annotated[float, Field(ge=0)]


class ImageDtype(str, Enum):
    """How numbers are stored: `uint8`, or `float32` as the model takes them (little endian)."""

    UINT8 = "uint8"
    FLOAT32 = "float32"


class Tensor(Contract):
    """One image or feature vector, exactly as the model saw it, in row-major order."""

    dtype: ImageDtype
    shape: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        max_length=4, description="For images: height, width, channels"
    )
    data: Base64Bytes

    @model_validator(mode="after")
    def _length_fits_shape(self) -> "Tensor":
        expected = 1 if self.dtype is ImageDtype.UINT8 else 4
        for size in self.shape:
            expected *= size
        if len(self.data) != expected:
            raise ValueError(
                f"data has {len(self.data)} bytes; shape {self.shape} of {self.dtype.value} has {expected}"
            )
        return self


class InferenceRequest(Message):
    """A question to a model about one image."""

    request_id: RequestId
    model: str
    image: Tensor
    attributes: Attributes = Field(default_factory=dict, description="Caller's metadata, for breakdowns of metrics")
    sent_at: Timestamp
    deadline: Timestamp | None = Field(None, description="After this moment the answer is `expired`")


class Timings(Contract):
    """Where the time of one answer went, in seconds."""

    queue: float = Field(ge=0, description="From the message's timestamp to the worker's reading it")
    batch: float = Field(ge=0, description="From reading to the start of its batch's computation")
    compute: float = Field(ge=0, description="Computation of the batch it was in")


class Outcome(str, Enum):
    """Whether the model was asked: `ok`, or `expired` (the deadline had passed; nothing was computed)."""

    OK = "ok"
    EXPIRED = "expired"


class InferenceResponse(Message):
    """A model's answer about one image: a classifier's `probabilities`, or a regression model's `value`.

    An `expired` one has no prediction.
    """

    outcome: Outcome = Outcome.OK
    model: str
    model_version: str
    primary: bool = Field(
        True, description="Whether the model is the one that requests without a model are for; names the record"
    )
    weights_sha256: str
    probabilities: tuple[float, ...] | None = Field(None, description="One a class, in the order of the model's labels")
    predicted: int | None = Field(None, le=MAX_INTEGER, description="Index of the most probable class")
    label: str | None = None
    labels_id: LabelsId | None = Field(
        None,
        description="Of a classifier: by which labels it answered; the first 16 hexadecimal digits of the SHA-256 of "
        "their JSON list, in ASCII and without spaces. Absent in pairs of earlier versions",
    )
    confidence: Probability | None = Field(None, description="Probability of the predicted class")
    value: float | None = Field(
        None, ge=-LARGEST, le=LARGEST, description="A regression model's answer, in the unit that its one label names"
    )
    timings: Timings
    batch_size: int = Field(
        ge=0, le=MAX_INTEGER, description="Images computed together, padding excluded; 0 if expired"
    )
    device: str
    answered_at: Timestamp

    @model_validator(mode="after")
    def _one_kind_of_answer(self) -> "InferenceResponse":
        given = (self.probabilities is not None) + (self.value is not None)
        if given != (self.outcome is Outcome.OK):
            expected = "exactly one" if self.outcome is Outcome.OK else "none"
            raise ValueError(f"outcome {self.outcome.value} comes with {expected} of probabilities, value; got {given}")
        return self


class InferencePair(Message):
    """A request with its response: what every agent subscribes to."""

    request: InferenceRequest
    response: InferenceResponse


def _no_boolean(value: Any) -> Any:
    """JSON's `true` reads as 1, and would be the class of index 1."""
    items = value if isinstance(value, (list, tuple)) else (value,)
    if any(isinstance(one, bool) for one in items):
        raise ValueError("true and false are no truth; name the class by truth_index, or by truth_label in quotes")
    return value


Number = Annotated[float, Field(strict=True)]
Numbers = Annotated[tuple[Number, ...], Field(min_length=1, max_length=MAX_NUMBERS)]
Row = Annotated[Number | str | Numbers, BeforeValidator(_no_boolean)]
"""The truth about one answer of several: a number, a label, or one number a class."""


class Feedback(Message):
    """The truth about one request, in exactly one of seven forms, with or without the response it judges.

    A message of `inference.feedback` holds one, or a list of up to 10,000.
    """

    request_id: RequestId
    model: str | None = Field(None, description="Whose answers it is about; none: every answer to the request")
    truth_index: Annotated[int, Field(ge=0), BeforeValidator(_no_boolean)] | None = None
    truth_label: str | None = None
    truth_one_hot: Annotated[tuple[int, ...], Field(max_length=MAX_NUMBERS)] | None = None
    truth_probabilities: Annotated[tuple[Probability, ...], Field(max_length=MAX_NUMBERS)] | None = None
    truth_value: Number | None = Field(None, description="About a regression model")
    truth: Annotated[
        int | float | str | Numbers | Annotated[tuple[Row, ...], Field(min_length=1, max_length=MAX_ROWS)] | None,
        BeforeValidator(_no_boolean),
    ] = Field(
        None,
        description="Any of the forms before, told apart by its shape and the model; `3` and `[3]`, as in Seldon's "
        "feedback, are class 3, or the number of a regression model, and refused where labels are numbers. A list of "
        "labels or of lists: as `truths`",
    )
    truths: Annotated[tuple[Row, ...], Field(min_length=1, max_length=MAX_ROWS)] | None = Field(
        None, description="About a request of several images: one a row, in their order, each in any form of `truth`"
    )
    response: tuple[float, ...] | None = Field(
        None, description="Self-contained feedback: the probabilities answered, or `[number]` of a regression model"
    )
    source: str = Field("unknown", max_length=64)
    given_at: Timestamp

    @property
    def rows(self) -> tuple[Row, ...] | None:
        """Truths about a request of several images; None if it is about one."""
        if self.truths is not None:
            return self.truths
        if isinstance(self.truth, tuple) and any(isinstance(row, (str, tuple)) for row in self.truth):
            return self.truth
        return None

    @model_validator(mode="after")
    def _one_form_of_truth(self) -> "Feedback":
        one = ("truth_index", "truth_label", "truth_one_hot", "truth_probabilities", "truth_value")
        forms = (*one, "truth", "truths")
        given = [form for form in forms if getattr(self, form) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(forms)}; got {', '.join(given) or 'none'}")
        return self


class Detector(Contract):
    """Which detector judged."""

    name: str
    version: str
    sha256: str


class OutlierVerdict(Message):
    """How strange one image is to the outlier detector."""

    request_id: RequestId
    model: str
    model_version: str | None = Field(None, description="Of the pair; None in verdicts written earlier")
    score: float
    threshold: float
    is_outlier: bool
    score_map: Tensor | None = Field(None, description="Score by pixel, where it was kept")
    detector: Detector
    scored_at: Timestamp


class LogPosition(Contract):
    """Where a message stands in its topic."""

    partition: int = Field(ge=0, le=MAX_INTEGER)
    offset: int = Field(ge=0, le=MAX_INTEGER)
    time: Timestamp


MAX_DETECTORS = 32
"""Drift detectors of one model."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
DetectorHashes = Annotated[dict[Annotated[str, Field(max_length=64)], Sha256], Field(max_length=MAX_DETECTORS)]
Version = Annotated[str, Field(max_length=512)]
TopicId = Annotated[str, Field(max_length=64)]


class FeatureVector(Message):
    """Compact features of one pair, from the drift agent's first stage to its second."""

    request_id: RequestId
    model: str
    model_version: Version | None = Field(None, description="That answered; messages of earlier versions name none")
    primary: bool = Field(True, description="As in the pair's response; names the record")
    position: LogPosition = Field(description="Of the pair in `inference.pairs`")
    pairs_id: TopicId | None = Field(None, description="Kafka's id of the topic `inference.pairs`, where it has one")
    features: dict[str, Tensor] = Field(description="Feature vector by detector name")
    detector_sha256: DetectorHashes = Field(
        default_factory=dict,
        description="Hash of each detector's files, reference included; messages of earlier versions name none",
    )
    answered_at: Timestamp | None = Field(None, description="Of the pair's response; names the index of its record")


class Mark(Contract):
    """How far one partition of `inference.pairs` has been counted."""

    partition: int = Field(ge=0, le=MAX_INTEGER)
    offset: int = Field(ge=0, le=MAX_INTEGER, description="The highest that counts as seen")
    topic_id: TopicId | None = Field(None, description="Of `inference.pairs`: another one if it was made anew")


class WindowStart(Message):
    """Where a drift window begins: with the log of features, all that is needed to compute it again."""

    model: str
    model_version: Version | None = None
    detector_sha256: DetectorHashes = Field(default_factory=dict, description="Whose features the window holds")
    sequence: int = Field(ge=0, description="Number of the window")
    partition: int = Field(ge=0, description="Of `monitoring.features`")
    features_id: TopicId | None = Field(None, description="Kafka's id of that topic, where it has one")
    offset: int = Field(ge=0, le=MAX_INTEGER, description="Of the first message to read")
    seen: int | None = Field(
        None, ge=0, le=MAX_INTEGER, description="Messages before this offset are in windows before, if in any"
    )
    reported: int = Field(0, ge=0, description="Pairs at its beginning that windows before have reported, too")
    marks: tuple[Mark, ...] = Field((), description="What windows before have counted")


class DriftTest(Contract):
    """One detector's test of one window against its reference."""

    is_drift: bool
    p_values: tuple[Probability, ...] = Field(description="One a feature")
    distances: tuple[float, ...] = Field(description="Test statistic, one a feature")
    threshold: Probability = Field(description="p-value under which a feature drifts, after correction")
    correction: Literal["bonferroni", "fdr"]
    detector: Detector


Untested = Literal["too_small", "no_detector", "no_features"]


class DriftReport(Message):
    """One window of one model version's pairs, tested for drift."""

    window_id: str
    model: str
    model_version: Version | None = None
    first: LogPosition
    last: LogPosition
    size: int = Field(ge=1)
    closed_by: Literal["full", "age", "superseded"] = Field(
        description="`superseded`: the model's detectors were changed, or too many windows of it were open"
    )
    request_ids: tuple[RequestId, ...] | None = Field(
        None, description="Absent where they are too long for a message; the pairs' records name the window"
    )
    start: WindowStart | None = Field(None, description="From where the window can be computed again")
    detectors: dict[str, DriftTest]
    untested: dict[str, Untested] = Field(
        default_factory=dict,
        description="Detectors that say nothing, and why: the window is `too_small`, its features are of a detector "
        "that is not here (`no_detector`), some pairs have none (`no_features`)",
    )
    reported_at: Timestamp


class DriftStream(Contract):
    """Windows of one model version and one set of detectors, one after another."""

    start: WindowStart = Field(description="Of the window that is open, or comes next")
    last: dict[str, DriftTest] = Field(
        default_factory=dict, description="Latest tests, by detector: what its gauges show"
    )
    last_at: float = Field(0.0, ge=0, description="When the latest tested window ended, seconds since the epoch")


class DriftState(Message):
    """Where a model's windows stand: with the log of features, all that outlives a drift agent."""

    model: str
    partition: int = Field(ge=0, description="Of `monitoring.features`")
    features_id: TopicId | None = Field(None, description="Kafka's id of that topic, where it has one")
    seen: int = Field(ge=0, le=MAX_INTEGER, description="Offset behind the last message that this takes account of")
    marks: tuple[Mark, ...] = Field((), description="What was counted before `seen`")
    streams: tuple[DriftStream, ...] = Field(description="Messages before `seen` of others are in closed windows")


class ClassFigures(Contract):
    """Counts and rates of one class against the rest; a rate with an empty denominator is absent."""

    true_positives: int = Field(ge=0)
    true_negatives: int = Field(ge=0)
    false_positives: int = Field(ge=0)
    false_negatives: int = Field(ge=0)
    precision: Probability | None = None
    recall: Probability | None = None
    specificity: Probability | None = None
    f1: Probability | None = None


class Rates(Contract):
    """Rates over all classes; one that is defined for no class is absent."""

    precision: Probability | None = None
    recall: Probability | None = None
    specificity: Probability | None = None
    f1: Probability | None = None


class ValueFigures(Contract):
    """Figures of the requests that share a value of the attribute by which the model is broken down."""

    size: int = Field(ge=0, description="Pairs, labelled or not")
    labelled: int = Field(ge=0)
    correct: int | None = Field(None, ge=0, description="Labelled pairs that were answered rightly, by a classifier")
    accuracy: Probability | None = None
    rmse: Error | None = None
    mae: Error | None = None


class Mistake(Contract):
    """How often one class was answered where another was true."""

    truth: int = Field(ge=0, description="Index of the class")
    predicted: int = Field(ge=0)
    count: int = Field(ge=0)


class PerformanceReport(Message):
    """How right a model was over one window of joined pairs and feedback.

    A window is an interval of the time of answering. Labels that come later change its figures: the report is then
    sent again, with the same id, and replaces the one before.
    """

    window_id: str
    model: str
    model_version: str
    begin: Timestamp | None = Field(None, description="Of the window: its pairs were answered at or after it")
    end: Timestamp | None = Field(None, description="Of the window, exclusive")
    first: LogPosition | None = None
    last: LogPosition | None = None
    size: int = Field(ge=0, description="Pairs of the window, labelled or not")
    labelled: int = Field(0, ge=0, description="Those of them that have a label")
    confusion: Matrix = Field(
        (),
        description="Counts; rows are the truth, columns the prediction; empty for a regression model, and for a "
        "classifier of more than 100 classes",
    )
    mistakes: tuple[Mistake, ...] = Field(
        (), description="Of a classifier of more than 100 classes: its most frequent mistakes, at most 1,000 kinds"
    )
    mistakes_left_out: int = Field(0, ge=0, description="Wrong answers that `mistakes` leaves out")
    accuracy: Probability | None = None
    by_class: dict[str, ClassFigures] = Field(
        default_factory=dict,
        description="Classes that were the truth or the answer of any labelled pair; at most 100, those with the most "
        "wrong answers",
    )
    classes_left_out: int = Field(0, ge=0, description="Such classes that `by_class` leaves out; averages have them")
    by_value: dict[str, ValueFigures] = Field(
        default_factory=dict,
        description="By value of the attribute that `breakdown` of model.yaml names; `other`: unlisted; `none`: absent",
    )
    macro: Rates | None = Field(None, description="Means over the classes for which a rate is defined")
    micro: Rates | None = Field(None, description="Rates of the counts summed over classes")
    log_loss: float | None = None
    brier: float | None = None
    calibration_error: Probability | None = None
    kl_divergence: float | None = Field(None, description="Of the predicted from the true class distribution, nats")
    estimated_accuracy: Probability | None = Field(None, description="From calibrated confidences, without labels")
    rmse: Error | None = Field(None, description="Of a regression model: root of the mean squared error")
    mae: Error | None = Field(None, description="Of a regression model: mean absolute error")
    label_coverage: Probability | None = Field(None, description="Share of the window's pairs that have a label")
    reported_at: Timestamp


Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS)]
"""Since the epoch."""


class JoinedClass(Contract):
    """A truth that was given as one number a class."""

    index: int = Field(ge=0, description="Of the greatest")
    of: int = Field(ge=1, description="How many there were")


class JoinedTruth(Contract):
    """A truth in the join."""

    given_at: Seconds = Field(description="Seconds since the epoch")
    offset: int = Field(ge=0, le=MAX_INTEGER, description="Of its message in `inference.feedback`")
    item: int = Field(ge=0, description="Within its message")
    form: int | float | str | tuple[float, ...] | JoinedClass = Field(
        description="As given; of an answer: the class index; or, written with a point, the value"
    )
    source: str = "unknown"
    letter: str | None = Field(None, description="The feedback's own JSON, while an answer is awaited")
    model: str | None = Field(None, description="Whose answers it is about; none: all")


class JoinedPair(Contract):
    """What an answer contributes to the join."""

    lane: int = Field(ge=0, le=1, description="0: from `inference.pairs`; 1: by feedback")
    offset: int = Field(ge=0, le=MAX_INTEGER, description="In the topic of its lane")
    model: str
    version: str
    time: Seconds = Field(description="Of the answer, seconds since the epoch")
    kept_from: Seconds = Field(description="Seconds since the epoch; the time to live counts from here")
    predicted: int | float = Field(description="A class index; or a regression model's value, written with a point")
    probabilities: Base64Bytes = Field(description="float32, little endian, one a class; empty for a regression model")
    counted: int | float | None = Field(
        None, description="Joined late: the truth under which it was counted; -1, without a point, for none"
    )
    value: str | None = Field(None, description="Of the attribute by which the model is broken down")
    primary: bool = Field(True, description="As in its `InferenceResponse`")
    era: int = Field(0, ge=0, le=MAX_INTEGER, description="Of the topics of pairs and feedback, as in `JoinFold`")
    told: JoinedTruth | None = Field(None, description="The truth that holds")
    labels: LabelsId | None = Field(None, description="As `labels_id` in its `InferenceResponse`")

    @model_validator(mode="after")
    def _answer_is_whole(self) -> "JoinedPair":
        size = len(self.probabilities)
        if size % 4 or (isinstance(self.predicted, int) and not 0 <= self.predicted < size // 4):
            raise ValueError(f"predicted is {self.predicted}; probabilities has {size} bytes, 4 a class")
        return self


class JoinedGone(Contract):
    """An answer that has left the state before other answers to its request."""

    model: str
    version: str
    rank: Annotated[tuple[Seconds, ...], Field(min_length=3, max_length=3)] | None = Field(
        None, description="Of the highest truth that it has seen: `given_at`, `offset`, `item`"
    )


class JoinEntry(Message):
    """All that is known about one request: the log of the confusion agent's state. Or a claim, and nothing else."""

    schema_version: int = Field(2, ge=1, le=MAX_INTEGER, description="Version of this message's schema")
    request_id: RequestId
    pairs: tuple[JoinedPair, ...] = Field((), description="Its answers, one a model version")
    pair: JoinedPair | None = Field(None, description="In version 1: its only answer")
    truths: tuple[JoinedTruth, ...] = Field((), description="As they were given; in version 1 the one that holds")
    since: Seconds = Field(0.0, description="While an answer is awaited: since when, seconds since the epoch")
    due: Seconds = Field(0.0, description="While an answer is awaited: when to look elsewhere")
    gone: tuple[JoinedGone, ...] = ()
    claim: str | None = Field(None, description="Of a claim: the instance that owns the partition from here on")


class ModelSums(Contract):
    """Sums of one model version."""

    model: str
    version: str
    sums: dict[str, int]
    closed: int = Field(-1, ge=-1, description="The highest window of which a pair is in the sums; -1: of none")


class JoinFold(Message):
    """What has left the confusion agent's state: all of one partition up to the marks is in these sums."""

    partition: int = Field(ge=0)
    epoch: int = Field(ge=0, description="Number of the ownership; of two folds, that of the latest owner holds")
    base: int = Field(0, ge=0, description="`epoch` less the offset of the owner's claim in `monitoring.joins`, less 1")
    pairs_mark: int = Field(ge=-1, description="Highest offset of `inference.pairs` that is in the sums")
    feedback_mark: int = Field(ge=-1, description="Likewise of `inference.feedback`, for late and self-contained ones")
    era: int = Field(
        0,
        ge=0,
        le=MAX_INTEGER,
        description="How often the topics of pairs or feedback were made anew: offsets begin again",
    )
    era_began: Seconds = Field(0.0, description="When that was seen last, seconds since the epoch")
    topic_ids: dict[str, str] = Field(default_factory=dict, description="Of the topics that the marks are about")
    models: tuple[ModelSums, ...]


class PerformanceSums(Message):
    """One partition's part of one window, or of the lifetime.

    Sums are whole numbers: real terms are in units of 2^-44, squared errors in units of 2^-88.
    """

    model: str
    version: str
    window: int = Field(description="Number of the window since the epoch; -2: the lifetime")
    partition: int = Field(ge=0)
    epoch: int = Field(ge=0, description="Of the partition's owner, as in `JoinFold`")
    progress: int = Field(ge=0, description="Number of the publication under this owner")
    closed: int = Field(
        -1, ge=-1, description="With the lifetime: the highest window of which a pair has left the state; -1: of none"
    )
    sums: dict[str, int] = Field(description="Empty: the window has lost its pairs")


class ExplanationRequest(Message):
    """Why did the model answer that? About an earlier request by id, or about an image sent along."""

    request_id: RequestId
    model: str | None = Field(None, max_length=256)
    model_version: str | None = Field(
        None, max_length=256, description="About the answer of this version, explained only if the model has it still"
    )
    image: Tensor | None = None
    method: str = "anchors"
    options: dict[str, float | int | str | bool] = Field(default_factory=dict, max_length=16)
    deadline: Timestamp | None = None
    asked_by: str = Field("caller", max_length=256)
    asked_at: Timestamp


class Explanation(Message):
    """The answer to an `ExplanationRequest`, or why there is none. Told apart by request id, model and method."""

    request_id: RequestId
    model: str
    model_version: str | None = Field(None, description="That was asked; `reason` says so where the pair's is another")
    method: str
    outcome: Literal["ok", "no_anchor", "timeout", "overloaded", "not_found", "expired", "invalid", "failed"]
    reason: str | None = Field(None, description="Why there is no explanation, or what is special about this one")
    predicted: int | None = Field(None, description="Class index of the answer that is explained")
    label: str | None = None
    anchor: tuple[int, ...] | None = Field(None, description="Numbers of the segments that hold the answer")
    anchor_mask: Tensor | None = Field(None, description="1 where a pixel is in the anchor, (height, width)")
    segments: Tensor | None = Field(None, description="Number of each pixel's segment from 0, (height, width)")
    importance: Tensor | None = Field(
        None, description="Fall of the answer's probability when a pixel is covered, (height, width) float32"
    )
    precision: Probability | None = None
    coverage: Probability | None = None
    predictor_calls: int = Field(0, ge=0, description="Batches that the model was sent")
    distinct_evaluations: int = Field(0, ge=0, description="Images that the model was sent")
    samples: int = Field(0, ge=0, description="Perturbed images that the method looked at")
    seconds: float = Field(0, ge=0)
    overlay_png: Base64Bytes | None = None
    question: LogPosition | None = Field(None, description="Of the request on `explanation.requests`")
    explained_at: Timestamp


class RequestPosition(Message):
    """How far one partition of `inference.requests` is answered; brokers forget the offsets of a group that is away."""

    cluster_id: str = Field(description="Of the brokers; offsets mean nothing elsewhere")
    topic_id: str = Field(description="Of `inference.requests`; one that is made anew has another")
    partition: int = Field(ge=0, le=MAX_INTEGER)
    offset: int = Field(ge=0, le=MAX_INTEGER, description="Of the next request to answer")
    written_at: Timestamp


class LetterReplay(Message):
    """Says that a dead letter was sent again, so that it is not sent twice."""

    topic: str = Field(description="Where the refused message lay, and where it was sent again")
    partition: int = Field(ge=0, le=MAX_INTEGER)
    offset: int = Field(ge=0, le=MAX_INTEGER, description="Of the refused message")
    identity: str = Field(description="Topic, partition and offset of the refused message, and a digest of its value")
    letter_partition: int = Field(ge=0, le=MAX_INTEGER, description="Of the letter in `inference.dead-letters`")
    letter_offset: int = Field(ge=0, le=MAX_INTEGER)
    sent_identity: str | None = Field(
        None, description="Likewise of the message that was sent: a letter of this identity is about a replay"
    )
    replayed_at: Timestamp


MESSAGES: tuple[type[Message], ...] = (
    InferenceRequest,
    InferenceResponse,
    InferencePair,
    Feedback,
    FeatureVector,
    WindowStart,
    DriftState,
    OutlierVerdict,
    DriftReport,
    JoinEntry,
    JoinFold,
    PerformanceSums,
    PerformanceReport,
    ExplanationRequest,
    Explanation,
    RequestPosition,
    LetterReplay,
)
