"""Rendered rooms: depth where geometry gives it in closed form, and the same bytes from the same seed."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paperworks.worlds.rooms import Camera, Rooms, Scene, look, render

SIZE = (48, 64)


def scene(boxes=(), spheres=(), *, position=(2.0, 1.5, 1.0), rotation=None, room=(4.0, 3.0, 8.0), kinds=0, focal=60.0):
    boxes, spheres = np.array(boxes, float).reshape(-1, 7), np.array(spheres, float).reshape(-1, 4)
    count = 6 + len(boxes) + len(spheres)
    camera = Camera(np.array(position), np.eye(3) if rotation is None else rotation, focal)
    if rotation is None:
        camera = Camera(camera.position, look(0.0, 0.0, 0.0), focal)
    return Scene(
        room=np.array(room),
        boxes=boxes,
        spheres=spheres,
        kinds=np.full(count, kinds),
        scales=np.full(count, 0.5),
        colours=np.tile(np.array([[0.2, 0.2, 0.2], [0.8, 0.8, 0.8]]), (count, 1, 1)),
        lights=np.array([[2.0, 2.5, 4.0, 20.0, 20.0, 20.0]]),
        camera=camera,
    )


def rays(focal=60.0):
    x = (np.arange(64) + 0.5 - 32) / focal
    y = (np.arange(48) + 0.5 - 24) / focal
    return np.meshgrid(x, y)


def test_fronto_parallel_wall_has_one_planar_depth():
    """Planar, not along the ray: the same at the border as in the middle."""
    frame = render(scene(room=(40.0, 30.0, 8.0), position=(20.0, 15.0, 1.5)), SIZE)
    np.testing.assert_allclose(frame.depth, 6.5, atol=1e-6)
    assert (frame.instance == 5).all()
    np.testing.assert_allclose(frame.normal, np.broadcast_to([[[0]], [[0]], [[-1]]], (3, *SIZE)))


def test_floor_and_ceiling_follow_the_pinhole_equation():
    frame = render(scene(room=(40.0, 3.0, 80.0), position=(20.0, 1.2, 1.0)), SIZE)
    _, y = rays()
    floor, ceiling = y > 0.05, y < -0.05
    np.testing.assert_allclose(frame.depth[floor], 1.2 / y[floor], rtol=1e-6)
    np.testing.assert_allclose(frame.depth[ceiling], 1.8 / -y[ceiling], rtol=1e-6)
    assert (frame.instance[floor] == 2).all()
    assert (frame.instance[ceiling] == 3).all()


def test_sphere_is_its_quadratic_equation():
    centre, radius = np.array([2.2, 1.4, 4.0]), 0.7
    frame = render(scene(spheres=[(*centre, radius)]), SIZE)
    x, y = rays()
    # Camera coordinates: y points down.
    c = (centre - [2.0, 1.5, 1.0]) * [1, -1, 1]
    square, along = x**2 + y**2 + 1, c[0] * x + c[1] * y + c[2]
    inside = along**2 - square * (c @ c - radius**2)
    hit = inside > 0
    assert 0.02 < hit.mean() < 0.9
    np.testing.assert_allclose(frame.depth[hit], (along - np.sqrt(np.maximum(inside, 0)))[hit] / square[hit], atol=1e-6)
    assert np.array_equal(frame.instance == 6, hit)
    np.testing.assert_allclose(np.linalg.norm(frame.normal, axis=0), 1, atol=1e-6)


def test_turned_box_shows_its_nearest_edge():
    """A box of half size 1 turned by 45 degrees: its edge is sqrt(2) before its centre."""
    frame = render(scene(boxes=[(2.0, 1.5, 5.0, 1.0, 1.0, 1.0, np.pi / 4)]), (48, 65))
    np.testing.assert_allclose(frame.depth[24, 32], 4 - np.sqrt(2), atol=1e-6)
    seen = frame.instance == 6
    assert frame.depth[seen].min() == frame.depth[24, 32]
    sides = np.unique(np.round(frame.normal[:, seen].T, 5), axis=0)
    assert len(sides) == 2
    np.testing.assert_allclose(np.abs(sides), [[0.70711, 0, 0.70711]] * 2, atol=1e-4)


def test_pixels_on_a_plane_lie_on_it_for_a_turned_camera():
    rotation = look(0.3, 0.2, 0.1)
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-12)
    # The camera's y points down, the world's up.
    assert np.linalg.det(rotation) == pytest.approx(-1)
    frame = render(scene(rotation=rotation), SIZE)
    x, y = rays()
    world = np.array([2.0, 1.5, 1.0])[:, None] + rotation @ (
        np.stack((x, y, np.ones_like(x))).reshape(3, -1) * frame.depth.ravel()
    )
    distances = {0: world[0], 1: world[0] - 4, 2: world[1], 3: world[1] - 3, 4: world[2], 5: world[2] - 8}
    for wall in np.unique(frame.instance):
        on = frame.instance.ravel() == wall
        np.testing.assert_allclose(distances[int(wall)][on], 0, atol=2e-6)


def test_pitch_looks_down_yaw_right_and_roll_clockwise():
    np.testing.assert_allclose(look(0, 0, 0), np.diag([1.0, -1.0, 1.0]), atol=1e-12)
    assert look(0, 0.3, 0)[1, 2] < 0
    assert look(0.3, 0, 0)[0, 2] > 0
    # Rolled clockwise, the camera's right side sinks.
    assert look(0, 0, 0.3)[1, 0] < 0


@given(index=st.integers(0, 5000))
def test_rooms_keep_their_promises(index):
    rooms = Rooms((16, 24), seed=3)
    frame = rooms.render(rooms.scene(index))
    assert frame.image.dtype == frame.depth.dtype == frame.radiance.dtype == np.float32
    assert frame.image.shape == (3, 16, 24)
    assert frame.image.min() >= 0
    assert frame.image.max() <= 1
    assert frame.depth.min() > 0.4
    assert frame.depth.max() < 10
    assert frame.radiance.min() >= 0
    np.testing.assert_allclose(np.linalg.norm(frame.normal, axis=0), 1, atol=1e-5)
    scene = rooms.scene(index)
    assert 2 <= len(scene.boxes) <= 6
    assert len(scene.spheres) <= 2
    assert frame.instance.max() < 6 + len(scene.boxes) + len(scene.spheres)


def test_normals_face_the_camera():
    rooms = Rooms(SIZE, seed=0)
    for index in range(5):
        drawn = rooms.scene(index)
        frame = rooms.render(drawn)
        x, y = rays(drawn.camera.focal)
        way = drawn.camera.rotation @ np.stack((x, y, np.ones_like(x))).reshape(3, -1)
        assert ((way * frame.normal.reshape(3, -1)).sum(0) < 1e-6).all()


def test_a_picture_is_a_fixed_function_of_seed_and_index():
    rooms = Rooms(SIZE, seed=1)
    batch = rooms.batch([4, 7])
    alone = Rooms(SIZE, seed=1).render(rooms.scene(7))
    for name in ("image", "depth", "radiance", "normal", "instance"):
        assert getattr(batch, name)[1].tobytes() == getattr(alone, name).tobytes()
    other = Rooms(SIZE, seed=2).render(Rooms(SIZE, seed=2).scene(7))
    assert not np.array_equal(other.depth, alone.depth)
    digests = {hashlib.sha256(rooms.render(rooms.scene(index)).depth.tobytes()).hexdigest() for index in range(20)}
    assert len(digests) == 20


def test_texture_has_a_metric_size():
    """A checker of 0.5 m on a wall 6.5 m away, focal 60: a cell has 60 * 0.5 / 6.5 = 4.6 pixels."""
    drawn = scene(room=(40.0, 30.0, 8.0), position=(20.0, 15.0, 1.5), focal=260.0)
    frame = render(drawn, (8, 640))
    changes = np.flatnonzero(np.abs(np.diff(frame.radiance[0, 4])) > 0.3 * np.ptp(frame.radiance[0, 4]))
    assert np.diff(changes).mean() == pytest.approx(260 * 0.5 / 6.5, rel=0.03)


def test_lambert_shading_falls_with_the_angle():
    drawn = scene(room=(40.0, 30.0, 8.0), position=(20.0, 15.0, 1.5), kinds=2)
    flat = Scene(
        **{**vars(drawn), "colours": np.full((6, 2, 3), 0.5), "lights": np.array([[20.0, 15.0, 6.0, 9, 9, 9.0]])}
    )
    frame = render(flat, SIZE)
    x, y = rays()
    distance = 6.5 * np.sqrt(x**2 + y**2 + 1)
    square = (6.5 * x) ** 2 + (6.5 * y) ** 2 + 4
    light = 0.25 + 9 * 2 / np.sqrt(square) / (square + 0.5)
    clear = np.exp(-0.03 * distance)
    np.testing.assert_allclose(frame.radiance[0], 0.5 * light * clear + 0.5 * (1 - clear), rtol=1e-5)


def test_unfit_options_are_refused():
    for options, words in (
        ({"size": (0, 4)}, "size: expected"),
        ({"fov": (60.0, 50.0)}, "fov: expected"),
        ({"objects": (3, 2)}, "objects: expected"),
        ({"lights": (0, 1)}, "lights: expected"),
        ({"noise": -1.0}, "noise: expected"),
        ({"seed": -1}, "seed: expected"),
    ):
        with pytest.raises(ValueError, match=words):
            Rooms(**options)
    with pytest.raises(ValueError, match="index: expected"):
        Rooms().scene(-1)
    with pytest.raises(ValueError, match="indices: expected"):
        Rooms().batch([])
