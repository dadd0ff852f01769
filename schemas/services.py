"""Who sends and receives what: the services of the pipeline and the topics of each."""

from dataclasses import dataclass

from schemas import topics
from schemas.topics import Topic


@dataclass(frozen=True, slots=True)
class Service:
    """A party to the topics.

    Attributes:
        receives, sends: topics it reads and writes.
    """

    name: str
    description: str
    receives: tuple[Topic, ...]
    sends: tuple[Topic, ...]


SERVICES: tuple[Service, ...] = (
    Service(
        "operators",
        "People who look at the dead letters, send them again and delete them: `modelwatch letters`",
        receives=(topics.DEAD_LETTERS, topics.LETTER_REPLAYS),
        sends=(topics.REQUESTS, topics.FEEDBACK, topics.EXPLANATION_REQUESTS, topics.LETTER_REPLAYS),
    ),
    Service(
        "callers",
        "Applications that ask, tell the truth or want to know why, and those that read the results",
        receives=(
            topics.PAIRS,
            topics.OUTLIERS,
            topics.DRIFT,
            topics.PERFORMANCE,
            topics.EXPLANATIONS,
            topics.DEAD_LETTERS,
        ),
        sends=(topics.REQUESTS, topics.FEEDBACK, topics.EXPLANATION_REQUESTS),
    ),
    Service(
        "inference worker",
        "Classifies, and publishes each request with its response",
        receives=(topics.REQUESTS, topics.POSITIONS),
        sends=(topics.PAIRS, topics.DEAD_LETTERS, topics.POSITIONS),
    ),
    Service(
        "outliers",
        "Judges how strange each image is",
        receives=(topics.PAIRS,),
        sends=(topics.OUTLIERS, topics.EXPLANATION_REQUESTS, topics.DEAD_LETTERS),
    ),
    Service(
        "drift",
        "Extracts features of each pair, then tests windows of them against the reference",
        receives=(topics.PAIRS, topics.FEATURES, topics.DRIFT_STATE),
        sends=(topics.FEATURES, topics.DRIFT_STATE, topics.DRIFT, topics.DEAD_LETTERS),
    ),
    Service(
        "confusion",
        "Joins pairs with feedback and measures how right the model is",
        receives=(topics.PAIRS, topics.FEEDBACK, topics.JOINS, topics.JOIN_FOLDS, topics.PERFORMANCE_SUMS),
        sends=(topics.JOINS, topics.JOIN_FOLDS, topics.PERFORMANCE_SUMS, topics.PERFORMANCE, topics.DEAD_LETTERS),
    ),
    Service(
        "explanations",
        "Says why the model answered as it did; finds earlier requests among the pairs",
        receives=(topics.PAIRS, topics.EXPLANATION_REQUESTS, topics.FEEDBACK, topics.OUTLIERS),
        sends=(topics.EXPLANATIONS, topics.EXPLANATION_REQUESTS, topics.DEAD_LETTERS),
    ),
)
