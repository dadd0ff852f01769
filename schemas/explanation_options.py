"""Options of the explanation methods: what a question or a `model.yaml` may set, and what each is by default."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from schemas.base import Contract
from schemas.refusal import Reason, Refusal

Scalar = float | int | str | bool
Perturbation = Literal["mean", "blur", "noise", "backgrounds"]
MAX_SEGMENTS = 100
MAX_BACKGROUNDS = 1000


class AnchorOptions(Contract):
    """Of method `anchors`: alibi's `AnchorImage` (Ribeiro et al., "Anchors", AAAI 2018). Defaults: `informative`.

    Segments are SLIC superpixels (Achanta et al. 2012), numbered from 0 as alibi needs them.
    """

    model_config = ConfigDict(extra="forbid")

    n_segments: int = Field(8, ge=1, le=MAX_SEGMENTS, description="Superpixels asked for; SLIC makes about so many")
    compactness: float = Field(20.0, gt=0, le=10_000, description="SLIC: nearness in space against likeness in colour")
    sigma: float = Field(0.5, ge=0, le=10, description="SLIC: smoothing before, in pixels")
    perturbation: Perturbation = Field(
        "blur",
        description="What absent segments show: their `mean` colour, the image after a `blur`, uniform `noise`, or "
        "`backgrounds`: other images",
    )
    backgrounds: int = Field(
        4, ge=1, le=MAX_BACKGROUNDS, description="How many different noises or other images take turns"
    )
    threshold: float = Field(0.98, gt=0, lt=1, description="Least precision of an anchor")
    p_sample: float = Field(0.5, gt=0, lt=1, description="Chance of each segment to be absent")
    tau: float = Field(0.15, gt=0, lt=1, description="Precision within which one candidate is as good as the best")
    delta: float = Field(0.1, gt=0, lt=1, description="Chance of a wrong decision between candidates")
    batch_size: int = Field(100, ge=1, le=1000, description="Perturbed images drawn at once")
    coverage_samples: int = Field(10_000, ge=100, le=100_000, description="Perturbations that coverage is measured on")
    beam_size: int = Field(1, ge=1, le=10, description="Candidates kept for each size of anchor")
    max_anchor_size: int | None = Field(None, ge=1, le=MAX_SEGMENTS, description="Most segments of an anchor")
    seed: int = Field(0, ge=0, le=2**32 - 1, description="Same seed, same image, same model: same anchor")


class OcclusionOptions(Contract):
    """Of method `occlusion`: how the answer's probability falls when a patch is covered (Zeiler and Fergus 2014)."""

    model_config = ConfigDict(extra="forbid")

    patch: int = Field(8, ge=1, le=1024, description="Side of the patch, in pixels")
    stride: int = Field(4, ge=1, le=1024, description="Pixels between patches")


Options = AnchorOptions | OcclusionOptions
PRESETS: Mapping[str, Mapping[str, Scalar]] = {
    "informative": {},
    "article": {
        "n_segments": 5,
        "compactness": 20.0,
        "sigma": 0.5,
        "perturbation": "mean",
        "threshold": 0.95,
        "p_sample": 0.5,
        "tau": 0.25,
    },
}
"""Of method `anchors`, by name; option `preset` takes one, and other options change it."""
METHODS: Mapping[str, type[AnchorOptions] | type[OcclusionOptions]] = {
    "anchors": AnchorOptions,
    "occlusion": OcclusionOptions,
}


def read_options(method: str, *layers: Mapping[str, Any]) -> Options:
    """The options of a question, later layers over earlier ones (the model's, then the question's).

    Raises:
        Refusal: INVALID_FIELD, naming the method or the option that is wrong, and what there is.
    """
    if method not in METHODS:
        raise Refusal(Reason.INVALID_FIELD, f"no method {method[:64]!r}; there are {', '.join(METHODS)}")
    chosen: dict[str, Any] = {}
    for layer in layers:
        own = dict(layer)
        if method == "anchors" and (preset := own.pop("preset", None)) is not None:
            if preset not in PRESETS:
                raise Refusal(
                    Reason.INVALID_FIELD, f"no preset {str(preset)[:64]!r}; there are {', '.join(sorted(PRESETS))}"
                )
            chosen = dict(PRESETS[str(preset)])  # a preset is a whole: nothing of an earlier layer shines through
        chosen |= own
    try:
        return METHODS[method].model_validate(chosen)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise Refusal(
            Reason.INVALID_FIELD,
            f"option {name} of method {method}: {first['msg']} (found {str(first['input'])[:64]!r})",
        ) from None
