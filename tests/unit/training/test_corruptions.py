"""Corruptions follow their published definitions, from a seed, and grow with severity; masks are the article's."""

from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from training.corruptions import CORRUPTIONS, SEVERITIES, corrupt, mask_noise
from training.datasets import load_split

RANDOM = {"gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "motion_blur"}
Images = NDArray[np.uint8]


@pytest.fixture(scope="module")
def images() -> Images:
    """Read-only, as the data set is mapped."""
    return load_split("test")[0][:200]


def plain(value: int, count: int = 50) -> Images:
    return np.full((count, 32, 32, 3), value, np.uint8)


def change(images: Images, name: str, severity: int) -> float:
    difference = corrupt(images, name, severity, seed=3).astype(float) - images
    return float((difference**2).mean())


def test_the_names_are_those_the_article_and_the_benchmark_use() -> None:
    assert len(set(CORRUPTIONS)) == 12
    assert {"gaussian_noise", "motion_blur", "brightness", "pixelate"} < set(CORRUPTIONS)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_shape_and_type_stay_and_the_originals_are_untouched(images: Images, name: str) -> None:
    original = images.copy()
    corrupted = corrupt(original, name, 3, seed=1)
    assert (corrupted.shape, corrupted.dtype) == (images.shape, np.uint8)
    assert not np.array_equal(corrupted, images)
    assert np.array_equal(original, images)
    assert corrupt(images[:0], name, 3, seed=1).shape == (0, 32, 32, 3)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_seed_fixes_the_result_and_later_images_do_not_change_it(images: Images, name: str) -> None:
    whole = corrupt(images, name, 4, seed=1)
    assert np.array_equal(whole, corrupt(images, name, 4, seed=1))
    assert np.array_equal(whole[:7], corrupt(images[:7], name, 4, seed=1))
    assert np.array_equal(whole, corrupt(images, name, 4, seed=2)) == (name not in RANDOM)


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "saturate"])
def test_the_mean_squared_change_grows_with_severity(images: Images, name: str) -> None:
    changes = [change(images, name, severity) for severity in SEVERITIES]
    # Motion blur's third and fourth kernels differ by weights below 1e-8: their results are equal but for rounding.
    slack = 0.999 if name == "motion_blur" else 1.0
    assert changes[0] > 0
    assert all(later >= slack * earlier for earlier, later in pairwise(changes))
    assert changes[4] > 2 * changes[0]


def test_saturation_falls_at_severities_1_and_2_and_rises_at_3_to_5(images: Images) -> None:
    def spread(severity: int | None) -> float:
        shown = images if severity is None else corrupt(images, "saturate", severity, seed=0)
        return float((shown.max(axis=3).astype(int) - shown.min(axis=3)).mean())

    assert spread(2) < spread(1) < spread(None) < spread(3) < spread(4) < spread(5)


@pytest.mark.parametrize(("severity", "deviation"), enumerate((0.04, 0.06, 0.08, 0.09, 0.10), 1))
def test_gaussian_noise_has_the_published_deviation_and_no_bias(severity: int, deviation: float) -> None:
    noise = corrupt(plain(128), "gaussian_noise", severity, seed=0) / 255 - 128 / 255
    assert noise.std() == pytest.approx(deviation, rel=0.02)
    assert noise.mean() == pytest.approx(-0.5 / 255, abs=5e-4)  # values are cut to integers, as published


@pytest.mark.parametrize(("severity", "photons"), enumerate((500, 250, 100, 75, 50), 1))
def test_shot_noise_has_the_variance_of_that_many_photons(severity: int, photons: int) -> None:
    noise = corrupt(plain(120), "shot_noise", severity, seed=0) / 255
    assert noise.var() == pytest.approx(120 / 255 / photons, rel=0.03)


@pytest.mark.parametrize(("severity", "share"), enumerate((0.01, 0.02, 0.03, 0.05, 0.07), 1))
def test_impulse_noise_sets_the_published_share_half_to_black_half_to_white(severity: int, share: float) -> None:
    corrupted = corrupt(plain(128), "impulse_noise", severity, seed=0)
    assert set(np.unique(corrupted)) == {0, 128, 255}
    assert (corrupted == 0).mean() == pytest.approx(share / 2, rel=0.1)
    assert (corrupted == 255).mean() == pytest.approx(share / 2, rel=0.1)


@pytest.mark.parametrize(("severity", "deviation"), enumerate((0.06, 0.1, 0.12, 0.16, 0.2), 1))
@pytest.mark.parametrize("value", [60, 120])
def test_speckle_noise_is_in_proportion_to_the_value(severity: int, deviation: float, value: int) -> None:
    noise = corrupt(plain(value), "speckle_noise", severity, seed=0) / value - 1
    assert noise.std() == pytest.approx(deviation, rel=0.03)


@pytest.mark.parametrize(("severity", "deviation"), enumerate((0.4, 0.6, 0.7, 0.8, 1), 1))
def test_gaussian_blur_spreads_a_dot_by_the_published_deviation(severity: int, deviation: float) -> None:
    dot = np.zeros((1, 32, 32, 3), np.uint8)
    dot[:, 16, 16] = 255
    spread = corrupt(dot, "gaussian_blur", severity, seed=0)[0, :, :, 0].astype(float)
    centre, beside = spread[16, 16], spread[16, 17]
    assert beside / centre == pytest.approx(np.exp(-1 / (2 * deviation**2)), abs=0.02)


@pytest.mark.parametrize("name", ["defocus_blur", "gaussian_blur", "motion_blur", "pixelate", "contrast", "saturate"])
@pytest.mark.parametrize("severity", [1, 3])
def test_blurs_contrast_and_saturation_leave_a_plain_grey_image(name: str, severity: int) -> None:
    assert np.array_equal(corrupt(plain(200, 3), name, severity, seed=0), plain(200, 3))


@pytest.mark.parametrize(("severity", "radius"), enumerate((6, 6, 6, 8, 9), 1))
def test_motion_blur_smears_a_dot_to_one_side_within_45_degrees_and_keeps_its_light(severity: int, radius: int) -> None:
    dots = np.zeros((40, 32, 32, 3), np.uint8)
    dots[:, 16, 24] = 255
    smeared = corrupt(dots, "motion_blur", severity, seed=0)
    rows, columns = np.nonzero(smeared.any(axis=(0, 3)))
    assert columns.max() == 24
    assert columns.min() >= 24 - 2 * radius
    assert all(abs(rows - 16) <= 24 - columns)
    assert smeared[..., 0].sum(axis=(1, 2)).mean() == pytest.approx(255, abs=4)
    directions = {tuple(image[15:18, 23, 0] > 0) for image in smeared}
    assert len(directions) == 3


def test_defocus_blur_spreads_a_dot_evenly_in_all_directions() -> None:
    dot = np.zeros((1, 32, 32, 3), np.uint8)
    dot[:, 16, 16] = 255
    spread = corrupt(dot, "defocus_blur", 5, seed=0)[0, :, :, 0]
    assert np.array_equal(spread[15:18, 15:18], np.full((3, 3), 28))  # 255 / 9, cut
    assert np.array_equal(spread, spread.T)
    assert spread.sum() == 9 * 28


@pytest.mark.parametrize(("severity", "added"), enumerate((0.05, 0.1, 0.15, 0.2, 0.3), 1))
def test_brightness_adds_to_the_value_and_keeps_hue_and_saturation(images: Images, severity: int, added: float) -> None:
    from skimage.color import hsv2rgb, rgb2hsv

    hsv = rgb2hsv(images / 255)
    hsv[..., 2] = np.clip(hsv[..., 2] + added, 0, 1)
    expected = hsv2rgb(hsv) * 255
    assert np.abs(corrupt(images, "brightness", severity, seed=0) - expected).max() <= 1.01


@pytest.mark.parametrize(
    ("severity", "factor", "added"), [(1, 0.3, 0), (2, 0.1, 0), (3, 1.5, 0), (4, 2, 0.1), (5, 2.5, 0.2)]
)
def test_saturate_changes_the_saturation_as_published(
    images: Images, severity: int, factor: float, added: float
) -> None:
    from skimage.color import hsv2rgb, rgb2hsv

    hsv = rgb2hsv(images / 255)
    hsv[..., 1] = np.clip(hsv[..., 1] * factor + added, 0, 1)
    expected = hsv2rgb(hsv) * 255
    assert np.abs(corrupt(images, "saturate", severity, seed=0) - expected).max() <= 1.01


@pytest.mark.parametrize(("severity", "factor"), enumerate((0.75, 0.5, 0.4, 0.3, 0.15), 1))
def test_contrast_draws_each_channel_of_each_image_to_its_mean(images: Images, severity: int, factor: float) -> None:
    means = images.mean(axis=(1, 2), keepdims=True)
    expected = (images - means) * factor + means
    assert np.abs(corrupt(images, "contrast", severity, seed=0) - expected).max() <= 1.01


@pytest.mark.parametrize(("severity", "small"), enumerate((30, 28, 27, 24, 20), 1))
def test_pixelate_shows_no_more_rows_and_columns_than_the_small_picture_has(
    images: Images, severity: int, small: int
) -> None:
    for image in corrupt(images[:20], "pixelate", severity, seed=0):
        assert 1 + (image[1:] != image[:-1]).any(axis=(1, 2)).sum() <= small
        assert 1 + (image[:, 1:] != image[:, :-1]).any(axis=(0, 2)).sum() <= small


@pytest.mark.parametrize(("severity", "quality"), enumerate((80, 65, 58, 50, 40), 1))
def test_jpeg_compression_has_the_published_quality(images: Images, severity: int, quality: int) -> None:
    stream = BytesIO()
    Image.fromarray(images[5]).save(stream, "JPEG", quality=quality)
    assert np.array_equal(corrupt(images[:6], "jpeg_compression", severity, seed=0)[5], np.asarray(Image.open(stream)))


def test_an_unknown_name_or_severity_is_refused_with_the_choices(images: Images) -> None:
    with pytest.raises(ValueError, match=r"'fog'.*gaussian_noise, .*jpeg_compression"):
        corrupt(images, "fog", 1, seed=0)
    for severity in (0, 6, -1):
        with pytest.raises(ValueError, match=rf"severity {severity} is not one of 1, 2, 3, 4, 5"):
            corrupt(images, "contrast", severity, seed=0)


def test_images_of_another_shape_or_type_are_refused(images: Images) -> None:
    for wrong in (images[0], images[:, :16], images[..., :1], images.astype(np.float32)):
        with pytest.raises(ValueError, match=r"must be \(n, 32, 32, 3\) uint8"):
            corrupt(wrong, "contrast", 1, seed=0)


@pytest.mark.parametrize("size", [2, 4, 11, 20, 31])
def test_mask_noise_is_alibi_detects_normal_mask(images: Images, size: int) -> None:
    from alibi_detect.utils.perturbation import apply_mask

    state = np.random.get_state()
    np.random.seed(size)
    expected, _ = apply_mask(
        images[:5].astype(np.float32) / 255,
        mask_size=(size, size),
        n_masks=1,
        channels=[0, 1, 2],
        mask_type="normal",
        noise_distr=(0, 1),
        clip_rng=(0, 1),
    )
    np.random.set_state(state)
    assert np.allclose(mask_noise(images[:5], size, seed=size), expected, atol=1e-6)


@pytest.mark.parametrize("size", [1, 8, 31])
def test_mask_noise_changes_one_square_by_the_same_noise_in_every_image_and_channel(size: int) -> None:
    grey = np.full((3, 32, 32, 3), 0.5, np.float32)
    changes = mask_noise(grey, size, seed=5) - grey
    rows, columns = np.nonzero(changes.any(axis=(0, 3)))
    assert (np.ptp(rows), np.ptp(columns)) == (size - 1, size - 1)
    assert len(rows) == size * size
    assert (changes == changes[:1, :, :, :1]).all()
    assert np.array_equal(grey, np.full_like(grey, 0.5))


def test_mask_noise_stays_in_0_to_1_and_takes_bytes_or_fractions(images: Images) -> None:
    masked = mask_noise(images, 20, seed=1)
    assert (masked.dtype, masked.min(), masked.max()) == (np.float32, 0, 1)
    assert np.array_equal(masked, mask_noise(images.astype(np.float32) / 255, 20, seed=1))
    assert np.array_equal(masked, mask_noise(images, 20, seed=1))
    assert not np.array_equal(masked, mask_noise(images, 20, seed=2))


@pytest.mark.parametrize("size", [0, 32, -2])
def test_a_mask_that_does_not_fit_is_refused(images: Images, size: int) -> None:
    with pytest.raises(ValueError, match=rf"mask size {size} is not one of 1 to 31"):
        mask_noise(images, size, seed=0)
