"""The story that `modelwatch seed` sends."""

from cli.seed import story


def test_the_story_has_its_acts_in_order_under_names_of_their_own() -> None:
    acts = story(100, 50.0, "seed")
    options = [one for one, _ in acts]
    assert [accuracy for _, accuracy in acts if accuracy is not None] == [0.9, 0.4]
    assert acts[0][1] == 0.9 and acts[-1][1] == 0.4
    assert [one.corruption for one in options if one.corruption] == [
        "gaussian_noise",
        "motion_blur",
        "brightness",
        "pixelate",
    ]
    assert [one.mask for one in options if one.mask] == list(range(2, 21, 2))
    assert len({one.prefix for one in options}) == len(options)
    assert {one.rate for one in options} == {50.0} and options[0].bad > 0
