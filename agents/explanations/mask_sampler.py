"""Perturbed images as masks of segments: drawn as alibi draws them, and each distinct one evaluated once."""

import numpy as np
from numpy.typing import NDArray

from agents.explanations.explainer import AskedModel, Pixels
from schemas.explanation_options import AnchorOptions

Masks = NDArray[np.int64]


class MaskSampler:
    """alibi's `AnchorImageSampler` without its repetitions.

    A perturbed image is determined by its mask (and the background drawn for it), and a few segments have few masks. So
    the model is asked about a mask that it has not seen only, and images are made of those masks only. Draws come in
    alibi's order from a generator of this explanation's own: `RandomState(seed)` gives what alibi gets from
    `numpy.random` after `seed(seed)`, while explanations in other threads take nothing out of its stream.

    Args:
        segments: (h, w) numbers from 0.
        backgrounds: (m, h, w, c).

    Attributes:
        label: class index that the model gives the image.
        samples: masks drawn whose label was wanted.
    """

    def __init__(
        self,
        image: Pixels,
        segments: NDArray[np.uint8],
        backgrounds: Pixels,
        options: AnchorOptions,
        model: AskedModel,
    ) -> None:
        self._image = image
        self._segments = segments
        self._backgrounds = backgrounds
        self._p_absent = options.p_sample
        self._turns = options.perturbation in ("noise", "backgrounds")  # where alibi draws a background, even of one
        self._rng = np.random.RandomState(options.seed)
        self._count = int(segments.max()) + 1
        self._model = model
        self.label = int(model(image[None])[0].argmax())
        self._keeps: dict[bytes, bool] = {self._keys(np.ones((1, self._count), np.int64), np.zeros(1, int))[0]: True}
        self.samples = 0

    def __call__(
        self, anchor: tuple[int, tuple[int, ...]], num_samples: int, compute_labels: bool = True
    ) -> list[object]:
        """What alibi's beam search asks its sampler for; it looks at `labels` and `masks` only.

        Args:
            anchor: place of the candidate, and the segments that it holds.
        """
        place, held = anchor
        if not compute_labels:
            masks = self._draw(num_samples, 0.5)  # of coverage, which alibi measures at one half whatever `p_sample` is
            masks[:, list(held)] = 1
            return [masks]
        masks = self._draw(num_samples, self._p_absent)
        masks[:, list(held)] = 1
        return [[], [], self.labels(masks).astype(int), masks, -1.0, place]

    def labels(self, masks: Masks) -> NDArray[np.bool_]:
        """Whether the model's answer stays, for masks (n, segments); 1: the segment is there."""
        chosen = self._draw_backgrounds(len(masks))
        keys = self._keys(masks, chosen)
        missing = {key: row for row, key in enumerate(keys) if key not in self._keeps}
        if missing:
            rows = list(missing.values())
            answers = self._model(self._images(masks[rows], chosen[rows])).argmax(axis=1) == self.label
            self._keeps.update(zip(missing, answers.tolist(), strict=True))
        self.samples += len(masks)
        return np.array([self._keeps[key] for key in keys])

    def _draw(self, count: int, p_absent: float) -> Masks:
        flat = self._rng.choice([0, 1], count * self._count, p=[p_absent, 1 - p_absent])
        return np.asarray(flat, np.int64).reshape(count, self._count)

    def _draw_backgrounds(self, count: int) -> NDArray[np.int64]:
        if not self._turns:
            return np.zeros(count, np.int64)
        return np.asarray(self._rng.choice(range(len(self._backgrounds)), count, replace=True), np.int64)

    def _keys(self, masks: Masks, chosen: NDArray[np.int64]) -> list[bytes]:
        """One for each distinct image. Where nothing is absent the background does not show."""
        shown = np.where(masks.all(axis=1), 0, chosen).astype("<i4")
        bits = np.packbits(masks.astype(bool), axis=1)
        return [row.tobytes() + index.tobytes() for row, index in zip(bits, shown, strict=True)]

    def _images(self, masks: Masks, chosen: NDArray[np.int64]) -> Pixels:
        there = masks.astype(bool)[:, self._segments][..., None]
        return np.where(there, self._image, self._backgrounds[chosen])
