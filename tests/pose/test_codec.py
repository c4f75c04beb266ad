"""Codecs: the round trip in pixels, the mirror, the published targets, the exported decode."""

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polarpix.errors import InputError
from polarpix.pose.codec import CODECS, Codec, UdpOffset, build_codec
from polarpix.pose.maps import flip_heatmaps, smooth

SIZES = [((256, 192), (64, 48), 2.0), ((96, 72), (24, 18), 1.5), ((97, 130), (33, 65), 2.0)]
# Greatest error of a round trip in heatmap pixels, away from the border: the Gaussian codec rounds.
BOUND = {"gaussian": 0.5, "dark": 0.01, "udp": 0.01}

every_codec = pytest.mark.parametrize("name", list(CODECS))
heatmap_codec = pytest.mark.parametrize("name", [name for name in CODECS if CODECS[name].channels_per_keypoint == 1])
every_size = pytest.mark.parametrize(("size", "heat", "sigma"), SIZES)


def round_trip(codec: Codec, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors [K, 2] in crop pixels, weights [K] and scores [K]."""
    target, weight = codec.encode(points, np.ones(len(points), np.float32))
    assert target.shape == (len(points) * codec.channels_per_keypoint, *codec.heatmap_size)
    assert target.dtype == weight.dtype == np.float32
    back, score = codec.decode(torch.from_numpy(target)[None])
    assert back.dtype == score.dtype == torch.float32
    return np.abs(back[0].numpy() - points), weight, score[0].numpy()


@heatmap_codec
@every_size
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_round_trip(name: str, size: tuple[int, int], heat: tuple[int, int], sigma: float, seed: int) -> None:
    codec = build_codec(name, size, heat, sigma)
    stride = np.array([size[1] / heat[1], size[0] / heat[0]])  # a little more than UDP's gap
    margin = 3 * sigma * stride * 1.1
    points = np.random.default_rng(seed).uniform(margin, np.array(size[::-1]) - 1 - margin, (20, 2))
    error, weight, score = round_trip(codec, points.astype(np.float32))
    assert (weight == 1).all()
    assert (error <= BOUND[name] * stride + 1e-3).all()
    assert (score > 0.8).all()
    assert (score <= 1).all()


@heatmap_codec
@every_size
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_round_trip_at_the_border(
    name: str, size: tuple[int, int], heat: tuple[int, int], sigma: float, seed: int
) -> None:
    codec = build_codec(name, size, heat, sigma)
    stride = np.array([size[1] / heat[1], size[0] / heat[0]])
    points = np.random.default_rng(seed).uniform(-4, np.array(size[::-1]) + 4, (40, 2)).astype(np.float32)
    error, weight, _ = round_trip(codec, points)
    assert (error[weight > 0] <= 0.51 * stride * 1.1 + 1e-3).all()


@every_codec
def test_outside_and_hidden_points_are_not_learned(name: str) -> None:
    codec = build_codec(name, (64, 48), (16, 12), 2.0)
    each = codec.channels_per_keypoint
    points = np.array([[20, 20], [-6, 20], [20, -6], [55, 20], [20, 70], [20, 20]], np.float32)
    target, weight = codec.encode(points, np.array([1, 1, 1, 1, 1, 0], np.float32))
    np.testing.assert_array_equal(weight, [1, 0, 0, 0, 0, 0])
    assert target[0].max() > 0.9
    assert not target[each:].any()


def test_gaussian_target_is_that_of_simple_baseline() -> None:
    codec = build_codec("gaussian", (64, 64), (16, 16), 1.0)
    target, _ = codec.encode(np.array([[30, 21]], np.float32), np.ones(1, np.float32))  # 7.5, 5.25 -> pixel 8, 5
    assert target[0, 5, 8] == 1
    assert target[0, 6, 9] == pytest.approx(math.exp(-1))
    assert target[0, 5, 11] == pytest.approx(math.exp(-4.5))
    assert target[0, 5, 12] == 0  # beyond 3 sigma
    assert target[0, 9, 8] == 0


def test_quarter_pixel_shift() -> None:
    codec = build_codec("gaussian", (64, 64), (16, 16), 1.0)
    heatmap = torch.zeros(1, 1, 16, 16)
    heatmap[0, 0, 5, 8], heatmap[0, 0, 5, 7], heatmap[0, 0, 6, 8] = 1.0, 0.5, 0.25
    points, score = codec.decode(heatmap)
    assert points[0, 0].tolist() == [(8 - 0.25) * 4, (5 + 0.25) * 4]
    assert score.item() == 1


def test_udp_target_mirrors_exactly_and_the_classic_one_does_not() -> None:
    points = np.random.default_rng(0).uniform(0, [191, 255], (30, 2)).astype(np.float32)
    mirrored = points * [-1, 1] + [191, 0]
    ones, offset = np.ones(30, np.float32), {}
    for name in CODECS:
        codec = build_codec(name, (256, 192), (64, 48), 2.0)
        there, _ = codec.encode(mirrored.astype(np.float32), ones)
        here, _ = codec.encode(points, ones)
        channels = codec.channels_per_keypoint
        back = flip_heatmaps(torch.from_numpy(there)[None], range(30), shift=False, channels=channels)[0].numpy()
        offset[name] = np.abs(back - here).max()
        assert codec.unbiased == name.startswith("udp")
    assert offset["udp"] < 1e-5
    assert offset["udp_offset"] < 1e-4
    assert offset["dark"] > 0.1
    assert offset["gaussian"] > 0.1


def test_shift_undoes_most_of_the_classic_mirror() -> None:
    codec = build_codec("dark", (256, 192), (64, 48), 2.0)
    points = np.random.default_rng(0).uniform(30, [160, 220], (30, 2)).astype(np.float32)
    target, _ = codec.encode((points * [-1, 1] + [191, 0]).astype(np.float32), np.ones(30, np.float32))
    error = {}
    for shift in (False, True):
        back, _ = codec.decode(flip_heatmaps(torch.from_numpy(target)[None], range(30), shift))
        error[shift] = (back[0].numpy() - points)[:, 0]
    np.testing.assert_allclose(error[False], -3, atol=0.02)  # 1 - 1/4 heatmap pixels of 4
    np.testing.assert_allclose(error[True], 1, atol=0.02)


def test_flip_swaps_sides_and_is_its_own_inverse() -> None:
    heatmaps = torch.rand(2, 3, 4, 5)
    flipped = flip_heatmaps(heatmaps, (0, 2, 1), shift=False)
    assert torch.equal(flipped[:, 1], heatmaps[:, 2].flip(-1))
    assert torch.equal(flip_heatmaps(flipped, (0, 2, 1), shift=False), heatmaps)
    shifted = flip_heatmaps(heatmaps, (0, 2, 1), shift=True)
    assert torch.equal(shifted[..., 1:], flipped[..., :-1])
    assert torch.equal(shifted[..., 0], flipped[..., 0])


@heatmap_codec
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), level=st.sampled_from([-1.0, 0.0, 0.5]))
def test_any_heatmap_decodes_near_its_highest_pixel(name: str, seed: int, level: float) -> None:
    codec = build_codec(name, (64, 48), (16, 12), 2.0)
    heatmaps = torch.randn(2, 3, 16, 12, generator=torch.Generator().manual_seed(seed)) + level
    heatmaps[0, 0] = level  # flat
    points, score = codec.decode(heatmaps)
    assert torch.equal(score, heatmaps.amax(dim=(2, 3)))
    at = heatmaps.flatten(2).argmax(-1)
    gap = [47 / 11, 63 / 15] if name == "udp" else [4.0, 4.0]
    pixel = torch.stack((at % 12, at // 12), -1) * torch.tensor(gap)
    assert (points - pixel).abs().max() <= max(gap) + 1e-4


@pytest.mark.parametrize("name", ["dark", "udp"])
def test_the_summit_of_a_slanted_ridge_is_found(name: str) -> None:
    codec = build_codec(name, (64, 64), (64, 64), 2.0)  # crop pixels are heatmap pixels
    ys, xs = np.mgrid[:64, :64]
    for dx, dy in ((0.4, -0.3), (-0.45, -0.1), (0.0, 0.35)):
        x, y = xs - 30 - dx, ys - 33 - dy
        ridge = np.exp(-(x * x - 1.2 * x * y + y * y) / 8).astype(np.float32)
        points, _ = codec.decode(torch.from_numpy(ridge)[None, None])
        np.testing.assert_allclose(points[0, 0].numpy(), [30 + dx, 33 + dy], atol=0.03)


@heatmap_codec
def test_height_does_not_move_the_point(name: str) -> None:
    codec = build_codec(name, (128, 96), (32, 24), 2.0)
    points = np.random.default_rng(1).uniform(30, [65, 97], (10, 2)).astype(np.float32)
    target = torch.from_numpy(codec.encode(points, np.ones(10, np.float32))[0])[None]
    full, _ = codec.decode(target)
    weak, score = codec.decode(target * 0.05)
    assert (full - weak).abs().max() < 0.05
    assert score.max() <= 0.05


def test_dark_is_steadier_than_the_highest_pixel() -> None:
    rng = np.random.default_rng(2)
    points = rng.uniform(40, [150, 210], (60, 2)).astype(np.float32)
    error = {}
    for name in CODECS:
        codec = build_codec(name, (256, 192), (64, 48), 4.0 if name == "udp_offset" else 2.0)
        target, _ = codec.encode(points, np.ones(60, np.float32))
        noisy = target + rng.normal(size=target.shape).astype(np.float32) * 0.02
        error[name] = np.linalg.norm(codec.decode(torch.from_numpy(noisy)[None])[0][0].numpy() - points, axis=1).mean()
    assert error["dark"] < 0.5 < error["gaussian"]
    assert error["udp"] < 0.5
    assert error["udp_offset"] < 0.5


@every_codec
def test_decode_exports_with_a_free_batch(name: str) -> None:
    class Decode(torch.nn.Module):
        codec = build_codec(name, (64, 48), (16, 12), 2.0)

        def forward(self, heatmaps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.codec.decode(heatmaps)

    maps = 3 * Decode.codec.channels_per_keypoint
    free = {"heatmaps": {0: torch.export.Dim("batch", min=1, max=64)}}
    program = torch.export.export(Decode(), (torch.rand(2, maps, 16, 12),), dynamic_shapes=free)
    heatmaps = torch.rand(5, maps, 16, 12)
    for got, want in zip(program.module()(heatmaps), Decode()(heatmaps), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("name", ["udp", "udp_offset"])
def test_half_precision_is_decoded_in_full(name: str) -> None:
    codec = build_codec(name, (64, 48), (16, 12), 2.0)
    heatmaps = torch.rand(1, 2 * codec.channels_per_keypoint, 16, 12).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        points, score = codec.decode(heatmaps)
    want, _ = codec.decode(heatmaps.float())
    assert points.dtype == score.dtype == torch.float32
    assert torch.equal(points, want)


def test_errors_name_the_mend() -> None:
    with pytest.raises(InputError, match="codec is 'simcc': choose one of gaussian, dark, udp, udp_offset"):
        build_codec("simcc", (64, 48), (16, 12), 2.0)
    with pytest.raises(InputError, match="sigma is 0"):
        build_codec("udp", (64, 48), (16, 12), 0)
    with pytest.raises(InputError, match="at least 3 pixels"):
        build_codec("udp", (64, 48), (2, 12), 2.0)
    with pytest.raises(InputError, match="each side needs 8"):
        build_codec("udp_offset", (64, 28), (16, 7), 4.0)


OFFSET_SIZES = [((256, 192), (64, 48)), ((96, 72), (24, 18)), ((97, 130), (33, 65))]


@pytest.mark.parametrize(("size", "heat"), OFFSET_SIZES)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_offsets_round_trip(size: tuple[int, int], heat: tuple[int, int], seed: int) -> None:
    """To 0.04 pixels of the map where the smoothing does not reach its border, for a radius of 4."""
    codec = build_codec("udp_offset", size, heat, 4.0)
    gap = np.array([(size[1] - 1) / (heat[1] - 1), (size[0] - 1) / (heat[0] - 1)])
    points = np.random.default_rng(seed).uniform(6 * gap, np.array(size[::-1]) - 1 - 6 * gap, (20, 2))
    error, weight, score = round_trip(codec, points.astype(np.float32))
    assert (weight == 1).all()
    assert (error <= 0.04 * gap).all()
    assert (score > 0.65).all()
    assert (score < 0.75).all()


@pytest.mark.parametrize(("size", "heat"), OFFSET_SIZES)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), radius=st.sampled_from([3.5, 4.0]))
def test_offsets_round_trip_at_the_border(
    size: tuple[int, int], heat: tuple[int, int], seed: int, radius: float
) -> None:
    """Smoothing mirrors the maps at their border, as the published decode does, which draws points there."""
    codec = build_codec("udp_offset", size, heat, radius)
    gap = np.array([(size[1] - 1) / (heat[1] - 1), (size[0] - 1) / (heat[0] - 1)])
    points = np.random.default_rng(seed).uniform(-4, np.array(size[::-1]) + 4, (40, 2)).astype(np.float32)
    error, weight, _ = round_trip(codec, points)
    assert (error[weight > 0] <= 2.5 * gap).all()
    assert (weight > 0).sum() > 10


def test_offset_targets_are_those_of_udp() -> None:
    """1 within the radius, and the way to the keypoint in radii on it (Huang et al., CVPR 2020)."""
    codec = build_codec("udp_offset", (61, 61), (16, 16), 4.0)  # gap 4 in both
    target, weight = codec.encode(np.array([[32, 26], [8, 60]], np.float32), np.ones(2, np.float32))  # 8, 6.5; 2, 15
    assert weight.tolist() == [1, 1]
    disk, x, y = target[:3]
    assert (disk[6, 8], x[6, 8], y[6, 8]) == (1, 0, 0.125)
    assert (disk[6, 5], x[6, 5], y[6, 5]) == (1, 0.75, 0.125)
    assert (disk[3, 8], y[3, 8]) == (1, 0.875)
    assert (disk[2, 8], y[2, 8]) == (0, 0)
    assert (disk[6, 4], x[6, 4]) == (0, 0)  # 4 pixels to the side and half a pixel up
    assert (target[3, 15, 2], target[4, 15, 6], target[3, 15, 7]) == (1, -1, 0)
    ys, xs = np.mgrid[:16, :16]
    np.testing.assert_array_equal(disk, (xs - 8) ** 2 + (ys - 6.5) ** 2 <= 16)


def test_offsets_are_added_to_the_highest_pixel_of_the_disk() -> None:
    codec = build_codec("udp_offset", (61, 61), (16, 16), 4.0)
    maps = torch.zeros(1, 6, 16, 16)
    maps[0, 0, 5, 8] = maps[0, 3, 10, 4] = 1.0
    maps[0, 1], maps[0, 2] = 0.25, -0.125  # one pixel right, half a pixel up
    points, score = codec.decode(maps)
    torch.testing.assert_close(points[0], torch.tensor([[9.0, 4.5], [4.0, 10.0]]) * 4)
    assert score[0, 0].item() == pytest.approx(UdpOffset.DISK_BLUR[7] ** 2, rel=1e-4)  # of a single pixel


def test_the_flip_of_offsets_swaps_sides_and_turns_x() -> None:
    maps = torch.rand(2, 9, 4, 5)
    flipped = flip_heatmaps(maps, (0, 2, 1), shift=False, channels=3)
    assert torch.equal(flipped[:, 3], maps[:, 6].flip(-1))
    assert torch.equal(flipped[:, 4], -maps[:, 7].flip(-1))
    assert torch.equal(flipped[:, 5], maps[:, 8].flip(-1))
    assert torch.equal(flip_heatmaps(flipped, (0, 2, 1), shift=False, channels=3), maps)


def test_smoothing_is_that_of_opencv() -> None:
    """With which the published decode smooths."""
    maps = np.random.default_rng(0).normal(size=(2, 3, 20, 17)).astype(np.float32)
    for size, kernel in ((15, UdpOffset.DISK_BLUR), (7, UdpOffset.OFFSET_BLUR)):
        found = smooth(torch.from_numpy(maps), kernel)
        for row in range(2):
            for k in range(3):
                want = cv2.GaussianBlur(maps[row, k], (size, size), 0)
                np.testing.assert_allclose(found[row, k].numpy(), want, atol=1e-5)


@every_codec
def test_the_covariance_follows_the_map_and_its_fit(name: str) -> None:
    codec = build_codec(name, (97, 130), (33, 65), 2.0)
    y, x = np.mgrid[:33, :65]
    maps = np.zeros((codec.channels_per_keypoint * 3, 33, 65), np.float32)
    step = codec.channels_per_keypoint
    maps[0] = np.exp(-((x - 30) ** 2 / 72 + (y - 15) ** 2 / 8))  # 6 wide, 2 high
    maps[step] = np.exp(-((x - 30 - (y - 15)) ** 2 / 8 + (y - 15) ** 2 / 8))  # leans to the right
    heatmaps = torch.from_numpy(maps)[None]
    points = torch.tensor([[[30.0, 15.0]] * 3]) * torch.from_numpy(np.asarray(gap(codec)))
    spread = codec.covariance(heatmaps, points)[0].numpy().astype(np.float64)  # [3, 2, 2]
    np.testing.assert_array_equal(spread, spread.swapaxes(-1, -2))
    within = spread / np.outer(gap(codec), gap(codec))  # in heatmap pixels
    assert within[0, 0, 0] / within[0, 1, 1] == pytest.approx(9, rel=0.05)
    assert within[0, 0, 1] == pytest.approx(0, abs=1e-3)
    assert within[1, 0, 1] > 0.5 * within[1, 1, 1]
    everywhere = [(65**2 - 1) / 12 + 2**2, (33**2 - 1) / 12 + 1**2]  # nothing is known: all pixels alike, from (30, 15)
    np.testing.assert_allclose(np.diagonal(within[2]), everywhere, rtol=1e-4)
    fitted = codec.covariance(heatmaps, points, (0.5, 2.0))[0].numpy()
    wanted = 0.5 * spread + 2.0 * np.diag(np.asarray(gap(codec)) ** 2)
    np.testing.assert_allclose(fitted, wanted, rtol=1e-5, atol=1e-3)


def gap(codec: Codec) -> np.ndarray:
    """Crop pixels between two heatmap pixels (x, y), from the documentation of the codecs."""
    (H, W), (h, w) = codec.input_size, codec.heatmap_size
    return np.array([(W - 1) / (w - 1), (H - 1) / (h - 1)] if codec.unbiased else [W / w, H / h], np.float32)
