"""The outlier detector: how badly a variational auto-encoder that learned normal images rebuilds one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.network import CompiledFunction, Images, Network, load_network, network_files, sha256_of_files
from runtime.errors import ConfigurationError
from runtime.model_folder import ModelFolder
from schemas.messages import Detector
from schemas.model_spec import InputSpec


@dataclass(frozen=True)
class OutlierScores:
    """What the detector says of n images.

    Attributes:
        scores: (n,) float64, the mean of the image's map. Above the threshold: an outlier.
        maps: (n, h, w) float32, squared error of each pixel, averaged over channels.
    """

    scores: NDArray[np.float64]
    maps: NDArray[np.float32]


class VaeScorer:
    """Scores images by the mean squared error of their reconstruction, as alibi-detect's `OutlierVAE` does.

    alibi-detect draws the latent vector anew for every call (An and Cho 2015), so one image gets many scores. Here it
    is the latent distribution's expectation, about which alibi-detect's draws scatter: a score depends on the image
    alone, not on the day, the batch or the place in it, and costs one reconstruction instead of `samples`.
    """

    def __init__(self, network: Network, images: InputSpec) -> None:
        self._map = CompiledFunction(_error_map(network), images)

    def score(self, images: Images) -> OutlierScores:
        """Scores of images (n, h, w, c), uint8, or float32 as the model takes them.

        Raises:
            ValueError: images of another shape or type.
        """
        maps = self._map(images)
        scores = maps.reshape(len(maps), maps.shape[1] * maps.shape[2]).mean(axis=1, dtype=np.float64)
        return OutlierScores(scores, maps)

    def warm_up(self) -> None:
        """Compute every batch size once, so that no image pays for it."""
        self._map.warm_up()


class OutlierDetector(VaeScorer):
    """The calibrated detector of a model folder.

    Attributes:
        threshold: of the score.
        identity: names the detector in verdicts; its hash is that of both of its files.

    Raises:
        ConfigurationError: `model.yaml` has no `outliers`, or its files fail their checksums or cannot be used.
    """

    def __init__(self, folder: ModelFolder) -> None:
        spec = folder.spec.outliers
        if spec is None:
            raise ConfigurationError(
                f"{folder.path / 'model.yaml'} has no section `outliers`: train one with `modelwatch train outliers`"
            )
        files = network_files(spec.files)
        folder.verify(files)
        self.threshold = spec.threshold
        self.identity = Detector(name=spec.kind, version=spec.version, sha256=sha256_of_files(folder, files))
        super().__init__(load_network(folder.file(spec.files)), folder.spec.input)


def _error_map(network: Network) -> Callable[[Any], Any]:
    """A function from images (n, h, w, c) float32 to maps (n, h, w) of the squared error of their reconstruction."""
    import tensorflow as tf

    def error_map(x: Any) -> Any:
        rebuilt = network.apply("decoder", network.apply("mean", network.apply("encoder", x)))
        return tf.reduce_mean(tf.math.squared_difference(x, rebuilt), axis=-1)

    return error_map
