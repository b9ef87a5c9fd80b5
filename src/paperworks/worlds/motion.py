"""Rooms that move: scenes at another moment, and where each pixel goes, with exact occlusion.

motion = Motion(shift=(0.1, 0, 0), boxes=((0, 0, 0.2, 0.1),))      # one entry a box
frame = rooms.render(scene, moment=0.5, motion=motion)             # frame.flow leads to moment 1.5
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from paperworks.worlds.rooms import WALLS, Array, Camera, Frame, Scene, cast, look, pixel_rays

# A point counts as seen if nothing is nearer by more than this part of its depth.
NEARER = 1e-6


@dataclass(frozen=True)
class Motion:
    """What a scene does from one moment to the next, at constant speed.

    Attributes:
        shift: metres that the camera moves, in world coordinates.
        turn: radians that it turns, in its own coordinates: yaw to the right, pitch down, roll clockwise.
        boxes: for each box x, y, z in metres and the angle around the vertical axis; empty: none moves.
        spheres: for each sphere x, y, z in metres; they do not spin.
    """

    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    spheres: tuple[tuple[float, float, float], ...] = ()

    def at(self, scene: Scene, moment: float) -> Scene:
        """The scene `moment` steps later (earlier, if negative). Sensor noise is another.

        Raises:
            ValueError: speeds for another number of boxes or spheres than there are.
        """
        for name, speeds, things in (("boxes", self.boxes, scene.boxes), ("spheres", self.spheres, scene.spheres)):
            if speeds and len(speeds) != len(things):
                raise ValueError(f"{name}: expected a speed for each of {len(things)}, got {len(speeds)}")
        boxes, spheres = scene.boxes.copy(), scene.spheres.copy()
        if self.boxes:
            boxes[:, [0, 1, 2, 6]] += moment * np.array(self.boxes)
        if self.spheres:
            spheres[:, :3] += moment * np.array(self.spheres)
        camera = scene.camera
        # `look` has camera axes in columns; what it does to straight-ahead axes is the turn in camera coordinates.
        own = look(0.0, 0.0, 0.0).T @ look(*(moment * np.array(self.turn)))
        camera = Camera(camera.position + moment * np.array(self.shift), camera.rotation @ own, camera.focal)
        deviation, seed = scene.noise
        other = int(np.random.default_rng((seed, int(moment * 1024) % 2**31)).integers(2**31)) if moment else seed
        return replace(scene, boxes=boxes, spheres=spheres, camera=camera, noise=(deviation, other))

    def flow(self, scene: Scene, moment: float, frame: Frame) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Where what each pixel of `frame`, the picture at `moment`, shows is at `moment + 1`.

        Returns:
            Displacements (2, H, W), x to the right and y down, in pixels, NaN for what is then behind the camera; and
            (H, W) whether it is then seen, that is inside the picture and not hidden.
        """
        now, later = self.at(scene, moment), self.at(scene, moment + 1)
        height, width = frame.depth.shape
        rays = pixel_rays((height, width), now.camera)
        # In double precision, once more: `frame` holds single.
        depth, surface = cast(now, now.camera.position, rays)[:2]
        points = now.camera.position[:, None] + depth * rays
        moved = _carried(points, surface, now, later)
        camera = later.camera
        ahead = camera.rotation.T @ (moved - camera.position[:, None])
        with np.errstate(divide="ignore", invalid="ignore"):
            place = np.where(ahead[2] > 0, camera.focal * ahead[:2] / ahead[2], np.nan)
        place += np.array([[width / 2], [height / 2]])
        rows, columns = np.divmod(np.arange(height * width), width)
        inside = (place >= 0).all(0) & (place[0] < width) & (place[1] < height)
        seen = inside.copy()
        seen[inside] = _not_hidden(later, moved[:, inside], ahead[2, inside])
        displacement = place - np.stack([columns + 0.5, rows + 0.5])
        return displacement.reshape(2, height, width).astype(np.float32), seen.reshape(height, width)


def _carried(points: Array, surface: NDArray[np.int64], now: Scene, later: Scene) -> Array:
    """Points (3, P) of surfaces, moved as their surfaces are."""
    moved = points.copy()
    for number, (before, after) in enumerate(zip(now.boxes, later.boxes, strict=True)):
        mine = surface == WALLS + number
        turn = _upright(after[6]) @ _upright(before[6]).T
        moved[:, mine] = turn @ (points[:, mine] - before[:3, None]) + after[:3, None]
    for number, (before, after) in enumerate(zip(now.spheres, later.spheres, strict=True)):
        mine = surface == WALLS + len(now.boxes) + number
        moved[:, mine] += (after - before)[:3, None]
    return moved


def _upright(angle: float) -> Array:
    """From a box's coordinates to the world's."""
    sin, cos = np.sin(angle), np.cos(angle)
    return np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]])


def _not_hidden(scene: Scene, points: Array, depth: Array) -> NDArray[np.bool_]:
    origin = scene.camera.position
    met = cast(scene, origin, (points - origin[:, None]) / depth)[0]
    return met >= depth * (1 - NEARER)
