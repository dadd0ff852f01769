"""What a decoded body says: how to get its images once the model is known, and the caller's facts beside them."""

from collections.abc import Callable
from dataclasses import dataclass
from reprlib import Repr
from typing import Any

from numpy.typing import NDArray

from schemas.model_spec import InputSpec


@dataclass(frozen=True, slots=True)
class Body:
    """One message's value, read but not yet judged: the facts are whatever the sender wrote, None where absent.

    Attributes:
        images: from the model's input to `(n, *shape)` uint8 or float32; raises `Refusal`.
    """

    images: Callable[[InputSpec], NDArray[Any]]
    request_id: object = None
    model: object = None
    attributes: object = None
    sent_at: object = None
    deadline: object = None


MAX_TEXT = 200
_repr = Repr()
_repr.maxstring = 80
_repr.maxlevel = 2  # lists in lists in lists would be told six to the power of their depth times
_repr.maxother = 80


def brief(value: object) -> str:
    """`repr` of something that a stranger sent, short enough for an error text."""
    text = _repr.repr(value)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."
