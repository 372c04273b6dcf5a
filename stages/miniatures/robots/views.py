"""Rendered views of the robot miniatures: `static_view` from beside the robot, `wrist_view` on it.

A pinhole camera projects boxes and cylinders, which are drawn from far to near. Lengths in metres
in the robot's base frame (x forward, y left, z up), light from the upper left of the static view.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image
from scipy.spatial import ConvexHull, QhullError

from handloom.stages.datasets.formats.rotations import from_rpy
from handloom.stages.miniatures.people.objects import COLORS
from handloom.stages.miniatures.people.raster import Color, Floats, Frame, blend, crop, shade
from handloom.stages.miniatures.robots.world import OPENING_M, Prop, WorldEpisode

TABLE: Color = (184, 142, 98)
FLOOR: Color = (112, 116, 122)
METAL: Color = (206, 210, 214)
DARK: Color = (62, 66, 74)
LIGHT = np.array([-0.35, 0.45, 0.82])
RIM = np.stack([np.cos(np.arange(20) * np.pi / 10), np.sin(np.arange(20) * np.pi / 10)], axis=1)
NEAR_M = 0.015  # nothing closer to a camera is drawn
SHOULDER = np.array([0.06, -0.46, 0.52])  # at which the arm is fixed


@dataclass(frozen=True)
class PinholeCamera:
    """A pinhole camera: its position, its axes (right, down, forward) and the size of its image."""

    eye: Floats  # [3]
    axes: Floats  # [3, 3], rows
    focal: float  # focal length, relative to the height of the image
    height: int
    width: int

    def project(self, points: Floats) -> tuple[Floats, Floats]:
        """Pixels [N, 2] (x to the right, y down) and depths [N] of points [N, 3]."""
        camera_points = (np.asarray(points) - self.eye) @ self.axes.T
        depth = np.maximum(camera_points[:, 2], 1e-6)
        middle = np.array([self.width / 2, self.height / 2])
        return camera_points[:, :2] / depth[:, None] * (
            self.focal * self.height
        ) + middle, camera_points[:, 2]


def _look_at(
    eye: Floats, target: Floats, up: Floats, focal: float, size: tuple[int, int]
) -> PinholeCamera:
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    return PinholeCamera(eye, np.stack([right, np.cross(forward, right), forward]), focal, *size)


def static_camera(size: tuple[int, int], side: float = 0.0) -> PinholeCamera:
    """A camera over the robot's left shoulder, moved to the left by `side` (m)."""
    eye = np.array([-0.18, 0.22 + side, 0.66])
    return _look_at(eye, np.array([0.45, -0.01, 0.04]), np.array([0, 0, 1.0]), 1.42, size)


def wrist_camera(pose: Floats, size: tuple[int, int]) -> PinholeCamera:
    """A camera behind the fingers that looks past their tips, fixed to the gripper."""
    tool = from_rpy(pose[None, 3:6]).as_matrix()[0]
    eye = pose[:3] + tool @ np.array([-0.075, 0.0, -0.125])
    target = pose[:3] + tool @ np.array([0.012, 0.0, 0.02])
    return _look_at(eye, target, tool[:, 0], 0.72, size)


@dataclass(frozen=True)
class Solid:
    """A convex solid: its faces' corners, outward normals and colours."""

    middle: Floats  # [3]
    faces: tuple[tuple[Floats, Floats, Color], ...]  # corners [N, 3], normal [3], colour
    round_side: tuple[Floats, Color] | None = None  # points whose outline is a cylinder's side


def _box(middle: Floats, turn: Floats, half: tuple[float, float, float], color: Color) -> Solid:
    faces = []
    for axis in range(3):
        one, other = (axis + 1) % 3, (axis + 2) % 3
        for sign in (-1.0, 1.0):
            corners = np.zeros((4, 3))
            corners[:, axis] = sign * half[axis]
            corners[:, one] = np.array([-1, 1, 1, -1]) * half[one]
            corners[:, other] = np.array([-1, -1, 1, 1]) * half[other]
            faces.append((middle + corners @ turn.T, sign * turn[:, axis], color))
    return Solid(middle, tuple(faces))


def _cylinder(base: Floats, radius: float, bottom: float, top: float, color: Color) -> Solid:
    rings = [np.column_stack([base[:2] + radius * RIM, np.full(20, base[2] + z)])
             for z in (bottom, top)]  # fmt: skip
    middle = base[:3] + np.array([0, 0, (bottom + top) / 2])
    lid = (rings[1], np.array([0, 0, 1.0]), color)
    return Solid(middle, (lid,), (np.concatenate(rings), color))


def _prop_solids(prop: Prop, place: Floats) -> list[Solid]:
    """An object as solids, in the order in which they are drawn."""
    color = COLORS[prop.color]
    base, radius, high = place[:3], prop.radius, prop.height
    if prop.kind == "block":
        cos, sin = np.cos(place[3]), np.sin(place[3])
        turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])
        return [_box(base + np.array([0, 0, high / 2]), turn, (radius, radius, high / 2), color)]
    body = _cylinder(base, radius, 0, high, color)
    if prop.kind == "can":
        label = _cylinder(base, radius * 1.01, 0.4 * high, 0.62 * high, (236, 232, 222))
        return [body, Solid(label.middle, (), label.round_side), _lid(base, 0.86, prop, METAL)]
    if prop.kind == "cup":
        dark = shade(color, 0.42)
        return [body, _lid(base, 0.86, prop, (float(dark[0]), float(dark[1]), float(dark[2])))]
    return [body, _lid(base, 0.68, prop, (206, 206, 200))]


def _lid(base: Floats, share: float, prop: Prop, color: Color) -> Solid:
    """A disc on top of an object, `share` of its radius wide."""
    full = _cylinder(base, share * prop.radius, prop.height, prop.height, color)
    return Solid(full.middle, full.faces)


def _gripper_solids(pose: Floats, with_palm: bool) -> list[Solid]:
    """Two fingers, and with the palm also the wrist and the link of the arm."""
    tool = from_rpy(pose[None, 3:6]).as_matrix()[0]
    apart = pose[6] * OPENING_M / 2 + 0.006
    solids = []
    for side in (-1.0, 1.0):
        middle = pose[:3] + tool @ np.array([0, side * apart, -0.036])
        solids.append(_box(middle, tool, (0.011, 0.006, 0.044), METAL))
        tip = pose[:3] + tool @ np.array([0, side * apart, 0.002])
        solids.append(_box(tip, tool, (0.0112, 0.0062, 0.008), DARK))
    if with_palm:
        palm = pose[:3] + tool @ np.array([0, 0, -0.066])
        solids.append(_box(palm, tool, (0.022, 0.058, 0.016), DARK))
        wrist = pose[:3] + tool @ np.array([0, 0, -0.112])
        solids.append(_box(wrist, tool, (0.026, 0.026, 0.032), METAL))
        elbow = pose[:3] + tool @ np.array([0, 0, -0.14])
        solids += [_link(elbow, SHOULDER)]
    return solids


def _link(start: Floats, end: Floats) -> Solid:
    """A beam between two points."""
    along = (end - start) / np.linalg.norm(end - start)
    across = np.cross(along, (0, 0, 1.0))
    across /= np.linalg.norm(across)
    turn = np.column_stack([along, across, np.cross(along, across)])
    half = float(np.linalg.norm(end - start)) / 2
    return _box((start + end) / 2, turn, (half, 0.026, 0.026), (232, 228, 220))


def _outline(pixels: Floats) -> Floats:
    """Edges of a convex polygon of ordered corners, [edges, 3]: normal a, b and offset c."""
    along = np.concatenate((pixels[1:], pixels[:1])) - pixels
    area = float(np.sum(pixels[:, 0] * along[:, 1] - pixels[:, 1] * along[:, 0]))
    if abs(area) < 0.5:  # edge-on
        return np.zeros((0, 3))
    normals = np.column_stack([along[:, 1], -along[:, 0]]) * np.sign(area)
    normals /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
    return np.column_stack([normals, -np.sum(normals * pixels, axis=1)])


def _hull(pixels: Floats) -> Floats:
    """Edges of the convex hull of points, as `_outline` gives them."""
    try:
        return np.asarray(ConvexHull(pixels).equations)
    except QhullError:  # edge-on
        return np.zeros((0, 3))


def _draw_polygon(
    canvas: Floats, pixels: Floats, edges: Floats, light: float | tuple[float, float], color: Color
) -> None:
    """Fill the inside of all edges; light is one value, or a cylinder's maximum and falloff."""
    low, high = pixels.min(axis=0) - 1, pixels.max(axis=0) + 1
    # A face close to the camera projects far beyond the image: it is left out.
    if not len(edges) or (high - low > 8 * max(canvas.shape)).any():
        return
    cropped = crop(canvas, 0, 0, (low[0], low[1], high[0], high[1]))
    if cropped is None:
        return
    patch, across, down = cropped
    far = np.full(patch.shape[:2], -np.inf, np.float32)
    for a, b, c in edges.astype(np.float32):
        np.maximum(far, a * across + (b * down + c), out=far)
    if isinstance(light, tuple):
        share = (across - np.float32(low[0])) / np.float32(high[0] - low[0])
        shaded = shade(color, light[0] - light[1] * np.abs(share - 0.33) ** 1.5)
    else:
        shaded = shade(color, light)
    blend(patch, 0.75 - far, shaded)


def _draw_solid(canvas: Floats, camera: PinholeCamera, solid: Solid) -> None:
    if solid.round_side is not None:
        points, color = solid.round_side
        pixels, depth = camera.project(points)
        if depth.min() > NEAR_M:
            _draw_polygon(canvas, pixels, _hull(pixels), (1.02, 0.95), color)
    for corners, normal, color in solid.faces:
        if normal @ (camera.eye - corners[0]) <= 0:
            continue  # turned away from the camera
        pixels, depth = camera.project(corners)
        if depth.min() > NEAR_M:
            light = 0.72 + 0.34 * float(normal @ LIGHT)
            _draw_polygon(canvas, pixels, _outline(pixels), light, color)


def _render_ground(camera: PinholeCamera) -> tuple[Floats, Floats, Floats]:
    """The empty table [H, W, 3], and x and y of the point of the plane z = 0 in each pixel."""
    high, wide = camera.height, camera.width
    down, across = np.mgrid[0:high, 0:wide].astype(np.float32) + np.float32(0.5)
    u, v = ((across - wide / 2), (down - high / 2))
    axes, eye = camera.axes.astype(np.float32), camera.eye.astype(np.float32)
    ahead = axes[2] * np.float32(camera.focal * high)
    rays = [axes[0, i] * u + axes[1, i] * v + ahead[i] for i in range(3)]
    # Rays that point up never meet the plane: they are bent to just below the horizon.
    reach = -eye[2] / np.minimum(rays[2], np.float32(-1e-3))
    x, y = eye[0] + reach * rays[0], eye[1] + reach * rays[1]
    grain = np.sin(150 * y + 3 * np.sin(9 * x)) + 0.5 * np.sin(410 * y + 2 * np.sin(14 * x))
    canvas = shade(TABLE, 0.95 + 0.022 * grain + 0.10 * np.exp(-((x - 0.6) ** 2 + y**2) / 0.06))
    edge = np.maximum(np.abs(x - 0.42) - 0.31, np.abs(y) - 0.36)
    # Metres that a pixel covers there: the table's edge is soft over one pixel.
    softness = np.maximum(np.abs(np.gradient(x, axis=0)), np.abs(np.gradient(y, axis=1))) + 1e-4
    blend(canvas, 0.5 + (edge / softness).astype(np.float32), shade(FLOOR, 0.9 - 0.12 * (x - 1)))
    return np.asarray(canvas, np.float32), x, y


@lru_cache(maxsize=8)
def _static_ground(
    size: tuple[int, int], side: float
) -> tuple[PinholeCamera, tuple[Floats, Floats, Floats]]:
    camera = static_camera(size, side)
    return camera, _render_ground(camera)


def _draw_shadow(
    canvas: Floats, x: Floats, y: Floats, at: Floats, radius: float, dark: float
) -> None:
    """Darken the plane around a point, shifted away from the light."""
    from_x, from_y = x - float(at[0] + 0.01), y - float(at[1] - 0.012)
    far = (from_x * from_x + from_y * from_y) / float(radius * radius)
    canvas *= (1 - float(dark) * np.clip(1.6 - far, 0, 1))[..., None]


def _render(
    camera: PinholeCamera, ground: tuple[Floats, Floats, Floats], world: WorldEpisode, step: int,
    wrist: bool,
) -> Frame:  # fmt: skip
    canvas, x, y = ground[0].copy(), ground[1], ground[2]
    pose, places = world.poses[step], world.places[step]
    under = pose[:2] + pose[2] * np.array([0.2, -0.25])
    _draw_shadow(canvas, x, y, under, 0.045 + 0.1 * pose[2], 0.2)
    for prop, place in zip(world.props, places, strict=True):
        under = place[:2] + place[2] * np.array([0.2, -0.25])
        _draw_shadow(canvas, x, y, under, 1.12 * prop.radius + 0.1 * place[2], 0.4)
    solids = [(p, _prop_solids(p, q)) for p, q in zip(world.props, places, strict=True)]
    groups = [s for _, s in solids] + [[part] for part in _gripper_solids(pose, not wrist)]
    # A plate is flat: it is drawn before whatever stands on it.
    flat = [s for p, s in solids if p.kind == "plate"]
    # Painter's algorithm: what is nearer covers what was drawn before.
    groups.sort(key=lambda g: -float(np.linalg.norm(g[0].middle - camera.eye)))
    for group in flat + [g for g in groups if not any(g is f for f in flat)]:
        for solid in group:
            _draw_solid(canvas, camera, solid)
    canvas += 0.5
    return np.clip(canvas, 0, 255, out=canvas).astype(np.uint8)


def static_view(world: WorldEpisode, size: tuple[int, int], side: float = 0.0) -> Iterator[Frame]:
    """Images of the static camera, one a step: RGB uint8 [H, W, 3]; `size` is height, width."""
    camera, ground = _static_ground(size, side)
    for step in range(len(world)):
        yield _render(camera, ground, world, step, wrist=False)


def wrist_view(world: WorldEpisode, size: tuple[int, int]) -> Iterator[Frame]:
    """Images of the wrist camera, one a step: RGB uint8 [H, W, 3]; `size` is height, width."""
    for step in range(len(world)):
        camera = wrist_camera(world.poses[step], size)
        yield _render(camera, _render_ground(camera), world, step, wrist=True)


def jpeg(picture: Frame, quality: int = 85) -> bytes:
    """An image as a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return file.getvalue()
