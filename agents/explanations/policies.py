"""Which answers ask for an explanation by themselves, by the policies of their model's `model.yaml`."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agents.rate_limit import RateLimit
from schemas.messages import InferenceResponse, Outcome
from schemas.model_spec import ExplanationPolicies, ModelSpec

OUTLIERS, LOW_CONFIDENCE, WRONG_ANSWERS, ONE_IN = "outliers", "low_confidence", "wrong_answers", "one_in"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A pair that a policy wants explained; version None: verdicts written earlier do not say."""

    request_id: str
    model: str
    version: str | None
    policy: str


class Policies:
    """The policies of all models, and one rate limit for each of them.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, specs: Mapping[str, ModelSpec], clock: Callable[[], float]) -> None:
        self._policies = {name: spec.explanations.policies for name, spec in specs.items()}
        self._limits = {name: RateLimit(one.per_minute / 60, one.burst, clock) for name, one in self._policies.items()}

    @property
    def look_at_pairs(self) -> bool:
        """Whether any model has a policy that the pair alone decides."""
        return any(one.low_confidence is not None or one.one_in is not None for one in self._policies.values())

    def of_pair(self, request_id: str, response: InferenceResponse) -> Wanted | None:
        """Whether the answer itself is a reason."""
        policies = self._policies.get(response.model)
        if policies is None or response.outcome is not Outcome.OK:
            return None
        if policies.low_confidence is not None and (response.confidence or 0.0) < policies.low_confidence:
            return Wanted(request_id, response.model, response.model_version, LOW_CONFIDENCE)
        if policies.one_in is not None and is_one_in(request_id, policies.one_in):
            return Wanted(request_id, response.model, response.model_version, ONE_IN)
        return None

    def of_model(self, model: str) -> ExplanationPolicies | None:
        """The policies of a model that is known here."""
        return self._policies.get(model)

    def may_ask_about_wrong(self, model: str | None) -> bool:
        """Whether wrong answers of this model, or of any for None, are wanted and may be asked about now."""
        named = self._policies if model is None else {model} & self._policies.keys()
        return any(self._policies[name].wrong_answers and self._limits[name].available >= 1 for name in named)

    def within_rate(self, wanted: Wanted) -> bool:
        """Whether it may be asked now."""
        return self._limits[wanted.model].take(1) == 1


def is_one_in(request_id: str, count: int) -> bool:
    """Chosen by the id, so that the same pairs are chosen whenever they are read again."""
    return zlib.crc32(request_id.encode()) % count == 0
