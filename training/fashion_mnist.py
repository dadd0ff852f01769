"""Fashion-MNIST from Debian's package: pictures that are not CIFAR's, to see whether outliers are told from them."""

import gzip
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ConfigurationError

FOLDER_VARIABLE = "MODELWATCH_FASHION_MNIST"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
TEST_FILE = "t10k-images-idx3-ubyte.gz"
HEADER_BYTES = 16
MAGIC = 2051
"""First number of an IDX file of images (LeCun et al.): unsigned bytes in three dimensions."""


def load_fashion_mnist(count: int) -> NDArray[np.uint8]:
    """The first test images (Xiao et al. 2017), bordered in black to 32x32, their grey in all three channels.

    Returns:
        (count, 32, 32, 3) uint8.

    Raises:
        ConfigurationError: the file is not there, or is not the data set's.
    """
    file = fashion_mnist_file()
    try:
        content = gzip.decompress(file.read_bytes())
        magic, images, height, width = np.frombuffer(content, ">i4", 4).tolist()
        grey = np.frombuffer(content, np.uint8, offset=HEADER_BYTES).reshape(images, height, width)[:count]
    except (OSError, EOFError, ValueError) as error:
        raise ConfigurationError(f"{file} is not a file of Fashion-MNIST's images: {error}") from error
    if (magic, height, width, len(grey)) != (MAGIC, 28, 28, count):
        raise ConfigurationError(f"{file} does not hold {count} images of 28x28 pixels: {magic}, {height}x{width}")
    return np.repeat(np.pad(grey, ((0, 0), (2, 2), (2, 2)))[..., np.newaxis], 3, axis=3)


def fashion_mnist_file() -> Path:
    """The file of test images.

    Raises:
        ConfigurationError: it is not there; the text says how to get it.
    """
    file = Path(os.environ.get(FOLDER_VARIABLE) or DEBIAN_FOLDER) / TEST_FILE
    if not file.is_file():
        raise ConfigurationError(
            f"Fashion-MNIST is not at {file}: install Debian's package (`apt-get install dataset-fashion-mnist`), "
            f"or set {FOLDER_VARIABLE} to a folder with {TEST_FILE}, or leave it out with --without-fashion-mnist"
        )
    return file
