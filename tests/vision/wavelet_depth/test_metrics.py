"""Errors against a table made by hand; edges against distances that one can see."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paperworks.vision import depth_edge_error, depth_metrics
from paperworks.vision.wavelet_depth.metrics import canny


def test_errors_by_hand():
    gt = np.array([[1.0, 2.0], [4.0, 10.0]])
    pred = np.array([[1.2, 2.0], [2.0, 17.0]])
    got = depth_metrics(pred, gt)
    assert got["abs_rel"] == pytest.approx((0.2 + 0 + 0.5 + 0.7) / 4)
    assert got["sq_rel"] == pytest.approx((0.04 + 0 + 1.0 + 4.9) / 4)
    assert got["rmse"] == pytest.approx(np.sqrt((0.04 + 0 + 4 + 49) / 4))
    assert got["rmse_log"] == pytest.approx(np.sqrt((np.log(1.2) ** 2 + np.log(2) ** 2 + np.log(1.7) ** 2) / 4))
    # Ratios 1.2, 1, 2, 1.7 against 1.25, 1.5625, 1.953.
    assert (got["d1"], got["d2"], got["d3"]) == (0.5, 0.5, 0.75)


def test_images_count_alike_however_many_pixels_are_valid():
    gt = np.array([[[1.0, 1.0]], [[1.0, 0.0]]])
    pred = np.array([[[1.0, 2.0]], [[3.0, 3.0]]])
    assert depth_metrics(pred, gt)["abs_rel"] == pytest.approx((0.5 + 2.0) / 2)
    assert depth_metrics(pred[:, None], gt[:, None]) == depth_metrics(pred, gt)


@given(factor=st.floats(0.1, 8.0))
def test_median_scaling_takes_out_the_scale(factor):
    gt = np.random.default_rng(0).uniform(1, 9, (2, 5, 7))
    for value in depth_metrics(gt * factor, gt, scaling="median").items():
        assert value[1] == pytest.approx(1.0 if value[0].startswith("d") else 0.0, abs=1e-9)


def test_holes_masks_and_the_cap():
    gt = np.array([[1.0, 0.0, np.nan, 100.0, 2.0]])
    pred = np.array([[2.0, 7.0, 7.0, 7.0, 200.0]])
    assert depth_metrics(pred, gt)["abs_rel"] == pytest.approx((1.0 + 78 / 2) / 2)
    assert depth_metrics(pred, gt, valid=[[True, True, True, True, False]])["abs_rel"] == pytest.approx(1.0)
    assert depth_metrics(pred, gt, cap=(1e-3, 150.0))["abs_rel"] == pytest.approx((1 + 0.93 + 148 / 2) / 3)


def test_crops_keep_kitti_s_windows():
    gt = np.ones((375, 1242))
    for crop, rows in (("garg", slice(153, 371)), ("eigen", slice(124, 342))):
        pred = np.full(gt.shape, 2.0)
        pred[rows, 44:1197] = 1.0
        assert depth_metrics(pred, gt, crop=crop)["abs_rel"] == 0
        pred[rows.start, 44] = pred[rows.stop - 1, 1196] = 2.0
        assert depth_metrics(pred, gt, crop=crop)["abs_rel"] > 0


def test_unfit_maps_are_refused():
    gt = np.ones((2, 3, 4))
    hole = gt.copy()
    hole[1] = 0
    for arguments, options, words in (
        ((gt, hole), {}, "gt: image 1 has no valid pixel"),
        ((gt[:1], gt), {}, r"pred: expected \(2, 3, 4\) as gt, got \(1, 3, 4\)"),
        ((gt, gt), {"valid": np.ones((3, 4))}, "valid: expected"),
        ((-gt, gt), {}, "pred: image 0 has depth that is not positive"),
        ((gt * np.nan, gt), {}, "pred: image 0 has depth that is not positive"),
        ((gt, gt), {"crop": "kitti"}, "crop: expected one of eigen, garg"),
        ((gt, gt), {"scaling": "mean"}, "scaling: expected"),
        ((gt, gt), {"cap": (1.0, 0.5)}, "cap: expected"),
        ((np.ones(3), np.ones(3)), {}, "gt: expected"),
    ):
        with pytest.raises(ValueError, match=words):
            depth_metrics(*arguments, **options)


def step(column, size=(40, 60), near=1.0, far=3.0):
    depth = np.full(size, near)
    depth[:, column:] = far
    return depth


def test_an_edge_is_where_the_step_is():
    edges = canny(np.log(step(20)), sigma=1.0, thresholds=(0.05, 0.1))
    columns = np.flatnonzero(edges.any(0))
    assert set(columns) <= {19, 20}
    assert edges[:, columns].sum() == 40


@pytest.mark.parametrize("shift", [1, 3, 7, 25])
def test_edge_error_is_the_shift_truncated_at_ten(shift):
    got = depth_edge_error(step(20 + shift), step(20))
    for value in got.values():
        assert value == pytest.approx(min(shift, 10), abs=1e-9)


def test_edge_error_ignores_scale_and_sees_missing_and_invented_edges():
    gt = step(20)
    assert depth_edge_error(5 * gt, gt)["edge_error"] == 0
    assert depth_edge_error(np.ones_like(gt), gt) == {"edge_error": 10.0, "accuracy": 10.0, "completeness": 10.0}
    extra = gt.copy()
    extra[:, 45:] = 9.0
    got = depth_edge_error(extra, gt)
    assert got["completeness"] == 0
    assert got["accuracy"] == pytest.approx(5.0)


def test_smooth_slopes_are_no_edges():
    slope = np.exp(np.linspace(0, 1, 60))[None].repeat(40, 0)
    assert not canny(np.log(slope), sigma=1.0, thresholds=(0.05, 0.1)).any()
    with pytest.raises(ValueError, match="gt: no image has a depth edge"):
        depth_edge_error(slope, slope)
    with pytest.raises(ValueError, match="gt: image 0 has depth that is not positive"):
        depth_edge_error(slope, slope - 1)


def test_edges_are_scikit_image_s():
    feature = pytest.importorskip("skimage.feature", reason="scikit-image is not installed")
    y, x = np.mgrid[:60, :80]
    depth = np.where((x - 40) ** 2 + (y - 30) ** 2 < 300, 1.0, 2.5) + 0.002 * x
    ours = canny(np.log(depth), sigma=1.5, thresholds=(0.05, 0.1))
    # Its gradient is Sobel's, eight times ours per pixel at its own scaling: only the place of edges is compared.
    theirs = feature.canny(np.log(depth), sigma=1.5, low_threshold=0.2, high_threshold=0.3)
    from scipy import ndimage

    far = ndimage.distance_transform_edt(~theirs)[ours]
    assert far.max() <= 1.5
    assert ndimage.distance_transform_edt(~ours)[theirs].max() <= 1.5
