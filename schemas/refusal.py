"""Why a message can be refused: the closed list of reasons, and the exception that carries one to the dead letters."""

from enum import Enum


class Reason(str, Enum):
    """Label of `modelwatch_dead_letters_total` and header `reason` of a dead letter."""

    EMPTY_VALUE = "empty_value"
    OVERSIZE = "oversize"
    INVALID_ID = "invalid_id"
    INVALID_HEADER = "invalid_header"
    UNKNOWN_MODEL = "unknown_model"
    UNKNOWN_CONTENT_TYPE = "unknown_content_type"
    INVALID_JSON = "invalid_json"
    MISSING_FIELD = "missing_field"
    INVALID_FIELD = "invalid_field"
    UNREADABLE_IMAGE = "unreadable_image"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_MANY_IMAGES = "too_many_images"
    WRONG_SHAPE = "wrong_shape"
    WRONG_DTYPE = "wrong_dtype"
    NOT_FINITE = "not_finite"
    OUT_OF_RANGE = "out_of_range"
    IN_FUTURE = "in_future"
    UNUSABLE_ANSWER = "unusable_answer"
    ORPHAN = "orphan"
    MAPPING_REJECTED = "mapping_rejected"


class Refusal(Exception):  # noqa: N818 - a refusal is an answer to the sender, not a failure of ours
    """This message cannot be processed, now or later.

    Args:
        reason: one of the closed list, safe as a metric label.
        detail: what was wrong, with the value found and what was expected.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.model: str | None = None
        """Which model was asked, where that was known before the message was refused."""
