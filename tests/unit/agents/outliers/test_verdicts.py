"""Score maps: one byte a pixel, brightest where the image is strangest."""

import numpy as np

from agents.outliers.verdicts import compact


def test_a_map_keeps_its_shape_and_its_highest_pixel_is_255() -> None:
    score_map = np.zeros((4, 6), np.float32)
    score_map[2, 3], score_map[0, 0] = 0.5, 0.25
    tensor = compact(score_map)
    pixels = np.frombuffer(tensor.data, np.uint8).reshape(tensor.shape)
    assert pixels.shape == (4, 6)
    assert (pixels[2, 3], pixels[0, 0], pixels[1, 1]) == (255, 128, 0)


def test_a_map_of_nothing_is_black() -> None:
    assert set(compact(np.zeros((3, 3), np.float32)).data) == {0}
