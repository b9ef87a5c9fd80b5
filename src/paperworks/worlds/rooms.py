"""Rendered rooms with exact depth: a box-shaped room with boxes and spheres in it, seen by a camera, in NumPy.

Every picture is a fixed function of (seed, index). A scene is plain data, so one can also be written by hand; `render`
casts one ray a pixel, all at once. Surfaces carry textures of metric size (checker, bricks, stripes, value noise), so
that texture gradients tell distance, under one or two point lights with Lambert shading, a little fog and sensor noise.

World coordinates are metres, x right, y up, z forward; camera coordinates x right, y down, z along the optical axis.
Depth is planar: the distance along the optical axis, not along the ray.

A new property of a picture is a function of a `Scene` and a `Frame`: hits, normals, instances and the camera are all
there. A new kind of light belongs into `Scene.lights` and `_shade`; the draw of existing scenes stays as it is as long
as new random numbers are drawn after the old ones. Scenes that move are in `motion.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from paperworks.worlds.sprites import boxes_of

if TYPE_CHECKING:
    from paperworks.worlds.motion import Motion

Array = NDArray[np.float64]
KINDS = ("checker", "bricks", "stripes", "noise")
WALLS = 6
NEAREST = 1e-6
FOG = 0.03
GAMMA = 2.2


@dataclass(frozen=True)
class Camera:
    """A pinhole camera, the centre in the middle of the picture; `focal` in pixels.

    `rotation` (3, 3), orthogonal, takes camera to world coordinates; since y turns over its determinant is -1.
    """

    position: Array
    rotation: Array
    focal: float


@dataclass(frozen=True)
class Scene:
    """A room and what is in it, S = 6 + boxes + spheres surfaces.

    Attributes:
        room: (3,) width, height, depth; one corner is the origin, the floor is y = 0.
        boxes: (n, 7) centre x, y, z, half sizes x, y, z, and the angle around the vertical axis.
        spheres: (n, 4) centre x, y, z and radius.
        kinds: (S,) texture of each surface, an index into `KINDS`; surfaces are the walls -x, +x, the floor, the
            ceiling, the walls -z, +z, then boxes, then spheres.
        scales: (S,) size of a texture cell in metres.
        colours: (S, 2, 3) its two colours, linear.
        lights: (n, 6) position and colour times power.
        camera: where it is seen from.
        noise: (deviation, seed) of the sensor's noise.
    """

    room: Array
    boxes: Array
    spheres: Array
    kinds: NDArray[np.int64]
    scales: Array
    colours: Array
    lights: Array
    camera: Camera
    noise: tuple[float, int] = (0.0, 0)


@dataclass(frozen=True)
class Frame:
    """A picture, all float32 except `instance`; with a leading dimension where `Rooms.batch` stacked several.

    Attributes:
        radiance: (3, H, W) linear light.
        image: (3, H, W) in [0, 1]: exposed, noisy, gamma 2.2.
        depth: (H, W) planar, metres.
        normal: (3, H, W) unit vectors in world coordinates, towards the camera's side.
        instance: (H, W) int16, the surface that is seen: 0-5 walls, then boxes, then spheres.
        cameras: one per picture.
        boxes: one array a picture, (n, 4) x and y of the first and behind the last visible pixel of each box and
            sphere; zeros where it is not seen.
        flow: (2, H, W) pixels to the right and down from here to the next moment, where a motion was given.
        followed: (H, W) bool, whether what is seen here is then seen, too.
    """

    radiance: NDArray[np.float32]
    image: NDArray[np.float32]
    depth: NDArray[np.float32]
    normal: NDArray[np.float32]
    instance: NDArray[np.int16]
    cameras: tuple[Camera, ...]
    boxes: tuple[NDArray[np.float32], ...]
    flow: NDArray[np.float32] | None = None
    followed: NDArray[np.bool_] | None = None


class Rooms:
    """Random rooms: `scene(index)`, `render(scene)`, `batch(indices)`.

    Args:
        size: height and width of pictures.
        fov: range of the horizontal field of view, degrees.
        objects: least and most boxes on the floor.
        spheres: least and most spheres on the floor.
        lights: least and most point lights.
        noise: standard deviation of the sensor's noise, as a share of the range.
        seed: with the index, all that decides a picture.

    Raises:
        ValueError: a range that is empty or out of bounds.
    """

    def __init__(
        self,
        size: tuple[int, int] = (96, 128),
        *,
        fov: tuple[float, float] = (50.0, 75.0),
        objects: tuple[int, int] = (2, 6),
        spheres: tuple[int, int] = (0, 2),
        lights: tuple[int, int] = (1, 2),
        noise: float = 0.01,
        seed: int = 0,
    ) -> None:
        if min(size) < 1:
            raise ValueError(f"size: expected a positive height and width, got {size}")
        if not 0 < fov[0] <= fov[1] < 180:
            raise ValueError(f"fov: expected a range within 0 to 180 degrees, got {fov}")
        for name, (low, high), least in (("objects", objects, 0), ("spheres", spheres, 0), ("lights", lights, 1)):
            if not least <= low <= high:
                raise ValueError(f"{name}: expected a range from at least {least}, got {(low, high)}")
        if not noise >= 0:
            raise ValueError(f"noise: expected a number that is not negative, got {noise}")
        if seed < 0:
            raise ValueError(f"seed: expected a whole number that is not negative, got {seed}")
        self.size, self.fov, self.objects, self.spheres = size, fov, objects, spheres
        self.lights, self.noise, self.seed = lights, noise, seed

    def scene(self, index: int) -> Scene:
        """Scene number `index`, 0 or more."""
        if index < 0:
            raise ValueError(f"index: expected 0 or more, got {index}")
        rng = np.random.default_rng((self.seed, index))
        room = rng.uniform((3.2, 2.4, 3.8), (6.4, 3.2, 7.4))
        camera = _camera(rng, room, self.size, self.fov)
        boxes, spheres = _furniture(rng, room, camera.position, self.objects, self.spheres)
        count = WALLS + len(boxes) + len(spheres)
        lights = int(rng.integers(self.lights[0], self.lights[1] + 1))
        position = rng.uniform((0.15, 0.75, 0.15), (0.85, 0.95, 0.85), (lights, 3)) * room
        power = rng.uniform(0.7, 1.3, (lights, 1)) * rng.uniform(0.85, 1.0, (lights, 3)) * room.max() ** 2 / lights
        return Scene(
            room=room,
            boxes=boxes,
            spheres=spheres,
            kinds=rng.integers(0, len(KINDS), count),
            scales=np.exp(rng.uniform(np.log(0.12), np.log(0.5), count)) * np.where(np.arange(count) < WALLS, 1.0, 0.5),
            colours=rng.uniform(0.08, 0.95, (count, 2, 3)),
            lights=np.concatenate((position, power), 1),
            camera=camera,
            noise=(self.noise, int(rng.integers(2**31))),
        )

    def render(self, scene: Scene, *, moment: float = 0.0, motion: Motion | None = None) -> Frame:
        """The picture of a scene at this size; with a motion that of `moment`, and the flow to one moment later."""
        if motion is None:
            return render(scene, self.size)
        frame = render(motion.at(scene, moment), self.size)
        flow, followed = motion.flow(scene, moment, frame)
        return replace(frame, flow=flow, followed=followed)

    def batch(self, indices: Iterable[int]) -> Frame:
        """The pictures of several scenes, stacked along a new first dimension."""
        frames = [self.render(self.scene(index)) for index in indices]
        if not frames:
            raise ValueError("indices: expected at least one")
        names = ("radiance", "image", "depth", "normal", "instance")
        stacked = {name: np.stack([getattr(frame, name) for frame in frames]) for name in names}
        cameras, boxes = (tuple(getattr(frame, name)[0] for frame in frames) for name in ("cameras", "boxes"))
        return Frame(**stacked, cameras=cameras, boxes=boxes)


def look(yaw: float, pitch: float, roll: float) -> Array:
    """Rotation from camera to world coordinates: yaw to the right, pitch down, roll clockwise, in radians."""
    (sy, cy), (sp, cp), (sr, cr) = ((np.sin(a), np.cos(a)) for a in (yaw, pitch, roll))
    forward = np.array([sy * cp, -sp, cy * cp])
    right = np.array([cy, 0.0, -sy])
    down = np.cross(right, forward)
    return np.stack((cr * right + sr * down, cr * down - sr * right, forward), axis=1)


def render(scene: Scene, size: tuple[int, int]) -> Frame:
    """Cast a ray through the centre of every pixel.

    Returns:
        A single picture, without a leading dimension.
    """
    height, width = size
    camera = scene.camera
    rays = pixel_rays(size, camera)
    depth, instance, normal, u, v = cast(scene, camera.position, rays)
    points = camera.position[:, None] + depth * rays
    albedo = _texture(scene, instance, u, v, depth / camera.focal)
    radiance = _shade(scene, points, normal, albedo, depth * np.linalg.norm(rays, axis=0))
    image = _expose(radiance, *scene.noise)

    def planes(values: Array) -> NDArray[np.float32]:
        return values.reshape(3, height, width).astype(np.float32)

    instance = instance.reshape(height, width)
    things = np.arange(WALLS, WALLS + len(scene.boxes) + len(scene.spheres))

    return Frame(
        planes(radiance),
        planes(image),
        depth.reshape(height, width).astype(np.float32),
        planes(normal),
        instance.astype(np.int16),
        (camera,),
        (boxes_of(instance == things[:, None, None]),),
    )


def pixel_rays(size: tuple[int, int], camera: Camera) -> Array:
    """Rays (3, H W) through the middles of the pixels, in world coordinates.

    Each is one metre long along the optical axis: a point's parameter on it is its planar depth.
    """
    height, width = size
    x = (np.arange(width) + 0.5 - width / 2) / camera.focal
    y = (np.arange(height) + 0.5 - height / 2) / camera.focal
    ahead = np.stack(np.broadcast_arrays(x[None, :], y[:, None], 1.0)).reshape(3, -1)
    return camera.rotation @ ahead


# Drawing scenes -------------------------------------------------------------------------------------------------------


def _camera(rng: np.random.Generator, room: Array, size: tuple[int, int], fov: tuple[float, float]) -> Camera:
    position = np.array([rng.uniform(0.8, room[0] - 0.8), rng.uniform(1.0, 1.8), rng.uniform(0.8, room[2] - 0.8)])
    towards = room / 2 - position
    yaw = np.arctan2(towards[0], towards[2]) + rng.normal(0.0, 0.5)
    rotation = look(yaw, np.radians(rng.uniform(-5.0, 20.0)), np.radians(rng.uniform(-5.0, 5.0)))
    return Camera(position, rotation, float(size[1] / 2 / np.tan(np.radians(rng.uniform(*fov)) / 2)))


def _furniture(
    rng: np.random.Generator, room: Array, camera: Array, objects: tuple[int, int], spheres: tuple[int, int]
) -> tuple[Array, Array]:
    """Boxes and spheres on the floor; none comes closer to the camera than 0.75 m, and none leaves the room."""
    boxes = []
    for _ in range(int(rng.integers(objects[0], objects[1] + 1))):
        half = rng.uniform((0.12, 0.15, 0.12), (0.55, 0.85, 0.55))
        place = _free_place(rng, room, camera, float(np.hypot(half[0], half[2])))
        boxes.append((place[0], half[1], place[1], *half, rng.uniform(0.0, np.pi)))
    balls = []
    for _ in range(int(rng.integers(spheres[0], spheres[1] + 1))):
        radius = float(rng.uniform(0.12, 0.45))
        place = _free_place(rng, room, camera, radius)
        balls.append((place[0], radius, place[1], radius))
    return np.array(boxes).reshape(-1, 7), np.array(balls).reshape(-1, 4)


def _free_place(rng: np.random.Generator, room: Array, camera: Array, radius: float) -> Array:
    """x and z of a disc on the floor, away from the camera: the farthest of some draws where none is far enough."""
    low, high = np.full(2, radius + 0.02), room[[0, 2]] - radius - 0.02
    draws = rng.uniform(low, high, (16, 2))
    gaps = np.hypot(*(draws - camera[[0, 2]]).T) - radius
    fit = np.flatnonzero(gaps > 0.75)
    return draws[fit[0] if len(fit) else gaps.argmax()]


# Casting rays ---------------------------------------------------------------------------------------------------------


def cast(scene: Scene, origin: Array, rays: Array) -> tuple[Array, NDArray[np.int64], Array, Array, Array]:
    """Parameter, surface, normal and texture coordinates (metres) of what each ray (3, P) from `origin` meets first."""
    depth, instance, normal, u, v = _cast_walls(scene.room, origin, rays)
    for number, box in enumerate(scene.boxes):
        _keep_nearer(_cast_box(box, origin, rays), WALLS + number, depth, instance, normal, u, v)
    for number, ball in enumerate(scene.spheres):
        _keep_nearer(_cast_sphere(ball, origin, rays), WALLS + len(scene.boxes) + number, depth, instance, normal, u, v)
    return depth, instance, normal, u, v


def _cast_walls(room: Array, origin: Array, rays: Array) -> tuple[Array, NDArray[np.int64], Array, Array, Array]:
    with np.errstate(divide="ignore", invalid="ignore"):
        times = np.where(rays > 0, (room - origin)[:, None], -origin[:, None]) / rays
    times[rays == 0] = np.inf
    axis = times.argmin(0)
    every = np.arange(rays.shape[1])
    depth = times[axis, every]
    positive = rays[axis, every] > 0
    normal = np.zeros_like(rays)
    normal[axis, every] = np.where(positive, -1.0, 1.0)
    x, y, z = origin[:, None] + depth * rays
    return depth, 2 * axis + positive, normal, np.where(axis == 0, z, x), np.where(axis == 1, z, y)


Hits = tuple[NDArray[np.int64], Array, Array, Array, Array]


def _cast_box(box: Array, origin: Array, rays: Array) -> Hits:
    """Which rays enter the box, where, with what normal, and the texture coordinates there."""
    sin, cos = np.sin(box[6]), np.cos(box[6])
    turn = np.array([[cos, 0.0, -sin], [0.0, 1.0, 0.0], [sin, 0.0, cos]])
    start, half = (turn @ (origin - box[:3]))[:, None], box[3:6, None]
    ways = turn @ rays
    with np.errstate(divide="ignore", invalid="ignore"):
        one, two = (-half - start) / ways, (half - start) / ways
    near, far = np.minimum(one, two), np.maximum(one, two)
    enter = near.max(0)
    hit = np.flatnonzero((enter < far.min(0)) & (enter > NEAREST))
    axis, depth, ways = near[:, hit].argmax(0), enter[hit], ways[:, hit]
    x, y, z = start + depth * ways
    inner = np.zeros((3, len(hit)))
    every = np.arange(len(hit))
    inner[axis, every] = -np.sign(ways[axis, every])
    return hit, depth, turn.T @ inner, np.where(axis == 0, z, x), np.where(axis == 1, z, y)


def _cast_sphere(ball: Array, origin: Array, rays: Array) -> Hits:
    start = origin - ball[:3]
    square, slope = (rays * rays).sum(0), start @ rays
    inside = slope * slope - square * (start @ start - ball[3] ** 2)
    depth = (-slope - np.sqrt(np.maximum(inside, 0.0))) / square
    hit = np.flatnonzero((inside > 0) & (depth > NEAREST))
    depth = depth[hit]
    normal = (start[:, None] + depth * rays[:, hit]) / ball[3]
    longitude, latitude = np.arctan2(normal[0], normal[2]), np.arcsin(np.clip(normal[1], -1.0, 1.0))
    return hit, depth, normal, longitude * ball[3], latitude * ball[3]


def _keep_nearer(
    hits: Hits, surface: int, depth: Array, instance: NDArray[np.int64], normal: Array, u: Array, v: Array
) -> None:
    places, depths, normals, us, vs = hits
    nearer = depths < depth[places]
    chosen = places[nearer]
    depth[chosen], instance[chosen], normal[:, chosen] = depths[nearer], surface, normals[:, nearer]
    u[chosen], v[chosen] = us[nearer], vs[nearer]


# Colour ---------------------------------------------------------------------------------------------------------------


def _texture(scene: Scene, instance: NDArray[np.int64], u: Array, v: Array, footprint: Array) -> Array:
    """Linear albedo (3, P). Where a pixel's footprint nears the size of a cell the colours blend, as in the pixel."""
    scale = scene.scales[instance]
    weight = np.empty_like(u)
    for kind, pattern in enumerate((_checker, _bricks, _stripes, _noise)):
        chosen = scene.kinds[instance] == kind
        weight[chosen] = pattern(u[chosen] / scale[chosen], v[chosen] / scale[chosen], instance[chosen])
    contrast = np.exp(-((1.5 * footprint / scale) ** 2))
    weight = 0.5 + (weight - 0.5) * contrast
    first, second = scene.colours[:, 0].T[:, instance], scene.colours[:, 1].T[:, instance]
    return first + (second - first) * weight


def _checker(u: Array, v: Array, surface: NDArray[np.int64]) -> Array:
    return np.mod(np.floor(u) + np.floor(v), 2.0)


def _bricks(u: Array, v: Array, surface: NDArray[np.int64]) -> Array:
    row = np.floor(2 * v)
    x = u + 0.5 * np.mod(row, 2.0)
    mortar = (np.mod(x, 1.0) < 0.08) | (np.mod(2 * v, 1.0) < 0.16)
    return np.where(mortar, 1.0, 0.35 * _lattice(np.floor(x), row, surface))


def _stripes(u: Array, v: Array, surface: NDArray[np.int64]) -> Array:
    return (np.mod(np.where(surface % 2, u, v), 1.0) < 0.5).astype(float)


def _noise(u: Array, v: Array, surface: NDArray[np.int64]) -> Array:
    """Value noise: random numbers on a lattice, smoothly interpolated, and once more at a third of the size."""
    total = np.zeros_like(u)
    for factor, share in ((1.0, 0.65), (3.0, 0.35)):
        x, y = u * factor, v * factor
        i, j = np.floor(x), np.floor(y)
        s, t = (w * w * (3 - 2 * w) for w in (x - i, y - j))
        low = _lattice(i, j, surface) * (1 - s) + _lattice(i + 1, j, surface) * s
        high = _lattice(i, j + 1, surface) * (1 - s) + _lattice(i + 1, j + 1, surface) * s
        total += share * (low * (1 - t) + high * t)
    return total


def _lattice(i: Array, j: Array, surface: NDArray[np.int64]) -> Array:
    """A number in [0, 1) for every lattice point of every surface, by mixing integers."""
    mixed = (
        i.astype(np.int64) * 0x1F123BB5 + j.astype(np.int64) * 0x2545F491 + surface.astype(np.int64) * 0x6C8E9CF5
    ).astype(np.uint32)
    mixed ^= mixed >> np.uint32(15)
    mixed *= np.uint32(0x2C1B3C6D)
    mixed ^= mixed >> np.uint32(12)
    mixed *= np.uint32(0x297A2D39)
    mixed ^= mixed >> np.uint32(15)
    return mixed / 2.0**32


def _shade(scene: Scene, points: Array, normal: Array, albedo: Array, distance: Array) -> Array:
    """Lambert's law under point lights and a little ambient light, and fog: linear radiance (3, P)."""
    light = np.full_like(points, 0.25)
    for source in scene.lights:
        way = source[:3, None] - points
        square = (way * way).sum(0)
        cosine = np.maximum((way * normal).sum(0), 0.0) / np.sqrt(square)
        light += cosine / (square + 0.5) * source[3:, None]
    clear = np.exp(-FOG * distance)
    return albedo * light * clear + 0.5 * (1 - clear)


def _expose(radiance: Array, deviation: float, seed: int) -> Array:
    """The picture: its mean exposed to 0.35 of the range, with the sensor's noise, gamma encoded."""
    linear = radiance * (0.35 / max(radiance.mean(), 1e-9))
    image = np.clip(linear, 0.0, 1.0) ** (1 / GAMMA)
    if deviation:
        image = image + np.random.default_rng(seed).normal(0.0, deviation, image.shape)
    return np.clip(image, 0.0, 1.0)
