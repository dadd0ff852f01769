"""What a decoded body says: how to get its images once the model is known, and the caller's facts beside them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from reprlib import Repr
from typing import Any

from numpy.typing import NDArray

from schemas.model_spec import InputSpec


def input_name(spec: InputSpec) -> str:
    """What the protocols call the model's only input."""
    return "image" if spec.kind == "image" else "row"


def input_datatype(spec: InputSpec) -> str:
    """The datatype of V2 in which the input is best sent."""
    return "UINT8" if spec.kind == "image" else "FP32"


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """What a JSON body says of the answer that it wants over HTTP, as it was sent: the HTTP side judges it.

    Over Kafka the answer is the pair, which holds everything, and none of this is looked at.

    Attributes:
        body_id: V2: comes back as the answer's id.
        input_name: V2: what the caller calls the model's input.
        outputs: V2: which tensors of the answer are wanted, and how.
        parameters: V2: of the request as a whole; ours may stand in any JSON body.
        signature: V1: which function of the model is asked.
        columns: V1: asked in columns, so answered in columns.
    """

    body_id: object = None
    input_name: object = None
    outputs: object = None
    parameters: object = None
    signature: object = None
    columns: bool = False


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
    options: AnswerOptions = field(default_factory=AnswerOptions)


MAX_TEXT = 200
_repr = Repr()
_repr.maxstring = 80
_repr.maxlevel = 2  # lists in lists in lists would be told six to the power of their depth times
_repr.maxother = 80


def brief(value: object) -> str:
    """`repr` of something that a stranger sent, short enough for an error text."""
    text = _repr.repr(value)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."
