"""Flow where geometry gives it in closed form, and against what the later picture shows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paperworks.worlds import Camera, Motion, Rooms, Scene
from paperworks.worlds.rooms import look, render

SIZE = (36, 48)
FOCAL = 50.0


def scene(boxes=(), spheres=(), position=(2.0, 1.5, 1.0)):
    boxes, spheres = np.array(boxes, float).reshape(-1, 7), np.array(spheres, float).reshape(-1, 4)
    count = 6 + len(boxes) + len(spheres)
    return Scene(
        np.array([4.0, 3.0, 8.0]), boxes, spheres, np.zeros(count, int), np.full(count, 0.5), np.ones((count, 2, 3)),
        np.array([[2.0, 2.5, 4.0, 20.0, 20.0, 20.0]]), Camera(np.array(position), look(0.1, 0.05, 0.0), FOCAL),
    )  # fmt: skip


def followed(scene, motion, moment=0.0):
    now, later = (render(motion.at(scene, moment + step), SIZE) for step in (0, 1))
    return now, later, *motion.flow(scene, moment, now)


def test_nothing_moves_without_a_motion():
    still = scene(boxes=[(2, 0.5, 5, 0.4, 0.5, 0.4, 0.3)], spheres=[(3, 0.4, 4, 0.4)])
    _, _, flow, seen = followed(still, Motion())
    np.testing.assert_allclose(flow, 0, atol=1e-4)
    assert seen.all()


def test_a_step_aside_is_a_disparity():
    wide = Scene(
        np.array([40.0, 30.0, 9.0]), np.zeros((0, 7)), np.zeros((0, 4)), np.zeros(6, int), np.full(6, 0.5),
        np.ones((6, 2, 3)), np.ones((1, 6)), Camera(np.array([20.0, 15.0, 1.0]), look(0, 0, 0), FOCAL),
    )  # fmt: skip
    now, _, flow, seen = followed(wide, Motion(shift=(0.4, 0.2, 0.0)))
    np.testing.assert_allclose(now.depth, 8.0)
    # To the right and up moves the picture to the left and down.
    np.testing.assert_allclose(flow[0], -FOCAL * 0.4 / 8, atol=1e-4)
    np.testing.assert_allclose(flow[1], FOCAL * 0.2 / 8, atol=1e-4)
    assert seen[:-2, 3:].all()
    assert not seen[:, :2].any()
    assert not seen[-1].any()


def test_a_turn_moves_pixels_whatever_their_depth():
    turn = (0.08, -0.05, 0.1)
    cluttered = scene(boxes=[(2, 0.5, 5, 0.4, 0.5, 0.4, 0.3)])
    _, _, flow, _ = followed(cluttered, Motion(turn=turn))
    x = np.arange(SIZE[1]) + 0.5 - SIZE[1] / 2
    y = np.arange(SIZE[0]) + 0.5 - SIZE[0] / 2
    rays = np.stack(np.broadcast_arrays(x[None] / FOCAL, y[:, None] / FOCAL, 1.0)).reshape(3, -1)
    moved = (look(0, 0, 0).T @ look(*turn)).T @ rays
    expected = FOCAL * (moved[:2] / moved[2] - rays[:2])
    np.testing.assert_allclose(flow.reshape(2, -1), expected, atol=1e-3)
    # Yaw goes to the right, so the picture goes to the left.
    assert flow[0].mean() < 0


def test_boxes_and_spheres_carry_their_pixels():
    things = scene(boxes=[(1.6, 0.5, 5, 0.4, 0.5, 0.4, 0.3)], spheres=[(2.9, 1.4, 4, 0.4)])
    motion = Motion(boxes=((0.0, 0.0, 0.0, 0.5),), spheres=((0.0, 0.3, 0.0),))
    now, _, flow, _ = followed(things, motion)
    assert np.abs(flow[:, now.instance < 6]).max() < 1e-4
    up = flow[:, now.instance == 7]
    assert (up[1] < 0).all()
    # The side of the box that is turned away goes one way, the near side the other.
    side = flow[0][now.instance == 6]
    assert np.ptp(side) > 1


@settings(deadline=None, max_examples=15)
@given(index=st.integers(0, 10_000), moment=st.floats(-1, 1))
def test_what_is_followed_is_found_in_the_later_picture(index, moment):
    rooms = Rooms(SIZE, noise=0.0, seed=4)
    drawn = rooms.scene(index)
    rng = np.random.default_rng(index)
    motion = Motion(
        tuple(rng.normal(0, 0.05, 3)),
        tuple(rng.normal(0, 0.03, 3)),
        tuple(map(tuple, rng.normal(0, 0.06, (len(drawn.boxes), 4)))),
        tuple(map(tuple, rng.normal(0, 0.06, (len(drawn.spheres), 3)))),
    )
    frame = rooms.render(drawn, moment=moment, motion=motion)
    later = rooms.render(drawn, moment=moment + 1, motion=motion)
    rows, columns = np.indices(SIZE)
    at_x, at_y = (np.floor(frame.flow[0] + columns + 0.5), np.floor(frame.flow[1] + rows + 0.5))
    inside = (at_x >= 0) & (at_x < SIZE[1]) & (at_y >= 0) & (at_y < SIZE[0])
    assert not frame.followed[~inside].any()
    found = later.instance[at_y[inside].astype(int), at_x[inside].astype(int)]
    same, seen = found == frame.instance[inside], frame.followed[inside]
    # Pixels at outlines may fall on the other side of them.
    assert same[seen].mean() > 0.93
    hidden = ~seen
    if hidden.sum() > 20:
        assert same[hidden].mean() < 0.8


def test_moments_add_up_and_the_first_is_the_scene():
    rooms = Rooms(SIZE, seed=1)
    drawn = rooms.scene(3)
    motion = Motion(shift=(0.1, 0.0, 0.2), boxes=tuple((0.1, 0.0, 0.1, 0.2) for _ in drawn.boxes))
    start = motion.at(drawn, 0.0)
    np.testing.assert_array_equal(render(start, SIZE).image, rooms.render(drawn).image)
    twice, once = motion.at(motion.at(drawn, 0.5), 0.5), motion.at(drawn, 1.0)
    np.testing.assert_allclose(twice.boxes, once.boxes)
    np.testing.assert_allclose(twice.camera.position, once.camera.position)
    assert once.noise != drawn.noise


def test_boxes_frame_what_is_seen():
    near_and_far = scene(
        boxes=[(2, 1.5, 3, 0.5, 0.5, 0.2, 0.0), (2, 1.5, 6, 0.2, 0.2, 0.2, 0.0)], spheres=[(2.9, 1.4, 5, 0.3)]
    )
    frame = render(near_and_far, SIZE)
    assert len(frame.boxes[0]) == 3
    rows, columns = np.nonzero(frame.instance == 6)
    assert frame.boxes[0][0].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert not (frame.instance == 7).any()
    assert frame.boxes[0][1].tolist() == [0, 0, 0, 0]
    assert Rooms(SIZE).batch([0, 1]).boxes[1].shape[1] == 4


def test_speeds_for_other_things_are_refused():
    with pytest.raises(ValueError, match="boxes: expected a speed for each of 1, got 2"):
        Motion(boxes=((0, 0, 0, 0),) * 2).at(scene(boxes=[(2, 0.5, 5, 0.4, 0.5, 0.4, 0.3)]), 0.5)
