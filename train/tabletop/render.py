"""Rendered views of the tabletop: `static_view` from the front, `gripper_view` past the fingertips.

Everything is a box with a yaw, or a disc, projected and filled from far to near; an image is drawn
at twice its size and averaged. The static camera does not move, so that its background is drawn
only once.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.train.tabletop import touching
from handloom.train.tabletop import world as w
from handloom.train.tabletop.world import Floats, TableWorld

Frame = NDArray[np.uint8]
Colour = tuple[float, float, float]

STATIC, GRIPPER = 200, 84  # pixels
OVERSAMPLING = 2  # an image is drawn at this many times its size
EYE, TARGET = np.array([0.0, -1.2, 1.6]), np.array([0.0, -0.105, 0.47])
FOV, GRIPPER_FOV = np.radians(31.0), np.radians(75.0)
LIGHT = np.array([-0.35, -0.5, 0.8]) / np.linalg.norm([-0.35, -0.5, 0.8])
NEAR_M = 0.02  # nearer points are projected as if at this depth

BLOCK_COLOURS: tuple[Colour, ...] = ((214, 48, 42), (44, 96, 214), (240, 130, 178))
FLOOR: Colour = (176, 182, 190)
CABINET: Colour = (206, 186, 158)
INSIDE: Colour = (96, 82, 68)
DOOR: Colour = (150, 104, 66)
DRAWER: Colour = (188, 150, 108)
HANDLE: Colour = (54, 56, 62)
STEEL: Colour = (222, 224, 228)
FINGER: Colour = (70, 74, 82)
SHADOW = 0.72

# Corners of a box as signs; its faces as ordered corners, and their outward normals.
_SIGNS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
_FACES = np.array(
    [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
)
_NORMALS = np.array([[-1, 0, 0], [1, 0, 0], [0, -1, 0], [0, 1, 0], [0, 0, -1], [0, 0, 1]], float)


@dataclass(frozen=True)
class Box:
    """A box: centre and half edge lengths (m), colour, and yaw (rad)."""

    middle: tuple[float, float, float]
    half: tuple[float, float, float]
    colour: Colour
    yaw: float = 0.0


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: `matrix` [3, 4] maps homogeneous points to pixels times depth."""

    eye: Floats
    matrix: Floats
    size: int

    @classmethod
    def look_at(cls, eye: Floats, at: Floats, up: Floats, fov: float, size: int) -> "Camera":
        """A camera at `eye` directed at a point; `size` is the edge of the image in pixels."""
        ahead = (at - eye) / np.linalg.norm(at - eye)
        right = np.cross(ahead, up)
        right /= np.linalg.norm(right)
        axes = np.stack([right, np.cross(ahead, right), ahead])
        inner = np.array([[size / 2 / np.tan(fov / 2), 0, size / 2], [0, 0, size / 2], [0, 0, 1]])
        inner[1, 1] = inner[0, 0]
        return cls(eye, inner @ np.column_stack([axes, -axes @ eye]), size)

    def project(self, points: Floats) -> Floats:
        """Pixels [..., 2] of points [..., 3]; those behind the camera are moved in front of it."""
        homogeneous = points @ self.matrix[:, :3].T + self.matrix[:, 3]
        return np.asarray(homogeneous[..., :2] / np.maximum(homogeneous[..., 2:], NEAR_M))


@functools.cache
def _wood_texture() -> Frame:
    """Texture of the table top, 1 mm a pixel: planks with a grain; uint8 [H, W, 3]."""
    height, width = 330, 720
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    plank = (y // 55).astype(int)
    tone = rng.uniform(-9, 9, 6)[plank]
    grain = 5 * np.sin(y / 3.1 + 2.2 * np.sin(x / 90 + plank)) + 3 * np.sin(y / 1.3 + x / 160)
    shade = tone + grain - 26 * (y % 55 < 1.5)
    colours = np.array([193.0, 151.0, 104.0]) + shade[..., None] * [1.0, 0.9, 0.75]
    texture: Frame = np.clip(colours, 0, 255).astype(np.uint8)
    return texture


def _draw_table_top(camera: Camera, image: Frame) -> None:
    """Draw the texture of the table top in perspective."""
    import cv2

    # Homography of the plane z = TABLE_Z: its z is part of the constant column.
    plane = np.column_stack(
        [camera.matrix[:, 0], camera.matrix[:, 1], camera.matrix[:, 2] * w.TABLE_Z]
    )
    plane[:, 2] += camera.matrix[:, 3]
    to_metres = np.array([[0.001, 0, -0.36], [0, -0.001, w.EDGE_Y + 0.33], [0, 0, 1]])
    cv2.warpPerspective(
        _wood_texture(), plane @ to_metres, (camera.size, camera.size), dst=image,
        flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_TRANSPARENT,
    )  # fmt: skip


def _fill_polygon(image: Frame, corners: NDArray[np.floating[Any]], colour: Colour) -> None:
    import cv2

    # 4 fractional bits: a box that moves by less than a pixel moves in the image.
    points = np.rint(np.clip(corners, -2000, 2000) * 16).astype(np.int32)
    cv2.fillConvexPoly(image, points, colour, cv2.LINE_AA, 4)


def _draw_boxes(camera: Camera, image: Frame, boxes: list[Box], in_order: bool = False) -> None:
    """Draw boxes without their back faces, from far to near unless they are in order."""
    if not boxes:
        return
    middles = np.array([box.middle for box in boxes])
    yaws = np.array([box.yaw for box in boxes])
    turn = np.zeros((len(boxes), 3, 3))
    turn[:, 0, 0] = turn[:, 1, 1] = np.cos(yaws)
    turn[:, 1, 0] = np.sin(yaws)
    turn[:, 0, 1] = -turn[:, 1, 0]
    turn[:, 2, 2] = 1.0
    halves = np.array([box.half for box in boxes])
    corners = np.einsum("nij,nkj->nki", turn, _SIGNS * halves[:, None]) + middles[:, None]
    projected = camera.project(corners)
    normals = np.einsum("nij,fj->nfi", turn, _NORMALS)
    faces = middles[:, None] + normals * np.abs(_NORMALS @ halves.T).T[..., None]
    towards = np.einsum("nfi,nfi->nf", normals, camera.eye - faces) > 0
    # Ambient light and Lambert's law; the last term tells apart faces that the light misses.
    shades = 0.66 + 0.34 * np.clip(normals @ LIGHT, 0, 1) + 0.06 * (normals @ LIGHT)
    distances = np.linalg.norm(middles - camera.eye, axis=1)
    order = range(len(boxes)) if in_order else np.argsort(-distances)
    for box in order:
        for face in np.flatnonzero(towards[box]):
            red, green, blue = np.minimum(np.array(boxes[box].colour) * shades[box, face], 255)
            _fill_polygon(
                image, projected[box, _FACES[face]], (float(red), float(green), float(blue))
            )


def _draw_disc(
    camera: Camera, image: Frame, middle: tuple[float, float, float], radius: float, colour: Colour
) -> None:
    """Draw a horizontal disc."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ring = np.column_stack([np.cos(angles), np.sin(angles), np.zeros(24)]) * radius
    _fill_polygon(image, camera.project(ring + middle), colour)


def _draw_cylinder(
    camera: Camera, image: Frame, foot: tuple[float, float, float], radius: float, height: float,
    colour: Colour,
) -> None:  # fmt: skip
    """Draw an upright cylinder: the hull of its two ends, then the upper end."""
    import cv2

    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ring = np.column_stack([np.cos(angles), np.sin(angles), np.zeros(24)]) * radius + foot
    ends = camera.project(np.vstack([ring, ring + np.array([0, 0, height])])).astype(np.float32)
    dark = tuple(0.74 * value for value in colour)
    _fill_polygon(image, cv2.convexHull(ends)[:, 0], dark)  # type: ignore[arg-type]
    _fill_polygon(image, ends[24:], colour)


def _draw_ball(camera: Camera, image: Frame, middle: Floats, radius: float, colour: Colour) -> None:
    import cv2

    at = camera.project(middle)
    edge = camera.project(middle + np.array([radius, 0, 0]))
    size = float(np.hypot(*(edge - at)))
    for share, bright in ((1.0, 0.8), (0.82, 0.92), (0.6, 1.0)):
        middle_px = np.rint((at - (1 - share) * 0.4 * size) * 16).astype(int)
        tone = tuple(min(255.0, bright * value) for value in colour)
        cv2.circle(
            image, tuple(middle_px.tolist()), round(share * size * 16), tone, -1, cv2.LINE_AA, 4
        )


def _draw_furniture(camera: Camera, image: Frame) -> None:
    """Draw what never moves: table, cabinet, post of the switch, ring of the button."""
    _draw_boxes(camera, image, [Box((0, -0.055, 0.375), (0.36, 0.165, 0.0595), (150, 112, 74))])
    _draw_table_top(camera, image)
    parts = [
        Box((0, 0.20, 0.545), (0.32, 0.01, 0.11), INSIDE),
        Box((0, 0.15, 0.44), (0.30, 0.05, 0.004), (128, 108, 88)),
        Box((-0.31, 0.15, 0.545), (0.012, 0.055, 0.11), CABINET),
        Box((0.31, 0.15, 0.545), (0.012, 0.055, 0.11), CABINET),
        Box((0, 0.15, 0.662), (0.325, 0.058, 0.009), CABINET),
    ]
    _draw_boxes(camera, image, parts, in_order=True)
    _draw_boxes(camera, image, [Box((0.33, 0.0, 0.52), (0.016, 0.014, 0.085), (104, 110, 120))])
    _draw_disc(camera, image, (*w.BUTTON, w.TABLE_Z + 0.001), 0.042, (86, 88, 94))


def _draw_lights(camera: Camera, image: Frame, world: TableWorld) -> None:
    bulb: Colour = (255, 224, 60) if world.lightbulb else (112, 108, 96)
    led: Colour = (60, 240, 90) if world.led else (36, 74, 44)
    _draw_boxes(camera, image, [Box((0.22, 0.12, 0.676), (0.02, 0.02, 0.006), HANDLE)])
    _draw_ball(camera, image, np.array([0.22, 0.12, 0.708]), 0.03, bulb)
    _draw_boxes(camera, image, [Box((-0.22, 0.12, 0.684), (0.045, 0.03, 0.014), led)])


def _draw_movable(camera: Camera, image: Frame, world: TableWorld) -> None:
    """Draw door, switch, lights and button, and the drawer with its content."""
    handles = world.handles()
    door = (0.14 - world.slider, 0.10, 0.548)
    slider, switch, drawer = (tuple(handles[n].tolist()) for n in ("slider", "switch", "drawer"))
    _draw_boxes(camera, image, [Box(door, (0.145, 0.006, 0.105), DOOR)])
    _draw_boxes(camera, image, [Box((slider[0], 0.078, 0.53), (0.009, 0.018, 0.034), HANDLE)])
    _draw_lights(camera, image, world)
    knob: Colour = (250, 176, 40)
    _draw_boxes(camera, image, [Box((0.308, switch[1], switch[2]), (0.02, 0.011, 0.011), knob)])
    height = 0.026 - world.button
    _draw_cylinder(camera, image, (*w.BUTTON, w.TABLE_Z), 0.028, height, (222, 62, 52))
    _draw_drawer(camera, image, world, drawer)


def _draw_drawer(
    camera: Camera, image: Frame, world: TableWorld, handle: tuple[float, float, float]
) -> None:
    front = w.EDGE_Y - world.drawer
    if world.drawer > 0.005:
        middle, half = (w.EDGE_Y + front) / 2, world.drawer / 2
        tray = [
            Box((0, middle, 0.335), (0.15, half, 0.006), (142, 112, 80)),
            Box((-0.146, middle, 0.372), (0.005, half, 0.042), DRAWER),
            Box((0.146, middle, 0.372), (0.005, half, 0.042), DRAWER),
        ]
        _draw_boxes(camera, image, tray, in_order=True)
    inside = [b for b in range(3) if world.in_drawer(b) and world.blocks[b, 1] < w.EDGE_Y + 0.01]
    _draw_boxes(camera, image, [_block_box(world, b) for b in inside])
    _draw_boxes(camera, image, [Box((0, front - 0.004, 0.375), (0.155, 0.006, 0.048), DRAWER)])
    _draw_boxes(
        camera, image, [Box((0, handle[1] + 0.008, handle[2]), (0.045, 0.009, 0.009), HANDLE)]
    )


def _block_box(world: TableWorld, block: int) -> Box:
    x, y, z, _, _, yaw = world.blocks[block].tolist()
    return Box((x, y, z), (w.BLOCK / 2,) * 3, BLOCK_COLOURS[block], yaw)


def _gripper_boxes(world: TableWorld, with_palm: bool, with_tube: bool = True) -> list[Box]:
    """Boxes of the fingers, optionally with the palm, and with the wrist and tube above it."""
    x, y, z, _, _, turned = world.tip.tolist()
    yaw = turned - np.pi / 2  # at rest the fingers close along x
    along = np.array([np.cos(yaw), np.sin(yaw)])
    parts = []
    for side in (-1, 1):
        at = np.array([x, y]) + side * (world.width / 2 + 0.006) * along
        parts.append(Box((*at.tolist(), z + 0.022), (0.006, 0.011, 0.034), FINGER, yaw))
    if with_palm:
        parts.append(Box((x, y, z + 0.072), (0.056, 0.022, 0.017), STEEL, yaw))
    if with_palm and with_tube:
        parts.append(Box((x, y, z + 0.115), (0.027, 0.027, 0.028), (168, 172, 180), yaw))
        parts.append(Box((x, y, z + 0.29), (0.014, 0.014, 0.15), (236, 237, 240), yaw))
    return parts


def _draw_shadows(camera: Camera, image: Frame, world: TableWorld, goes_round: bool) -> None:
    """Darken the table under the gripper and the blocks."""
    spots = [(world.tip[:3], 0.045)]
    if not goes_round:
        spots += [(block[:3], 0.036) for block in world.blocks if block[2] > w.TABLE_Z]
    mask = np.zeros(image.shape[:2], np.uint8)
    for (x, y, z), radius in spots:
        if y > w.EDGE_Y and z > w.TABLE_Z:
            lift = 0.25 * (z - w.REST_Z)  # a shadow moves away from the light as its cause rises
            spot = (float(x + lift), float(min(y + lift, 0.09)), w.TABLE_Z)
            _draw_disc(camera, mask, spot, radius, (255, 255, 255))
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows):
        part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        dark = 1 - (1 - SHADOW) * mask[part][..., None].astype(np.float32) / 255
        image[part] = (image[part] * dark).astype(np.uint8)


def _draw_pillar_and_goal(camera: Camera, image: Frame, world: TableWorld) -> None:
    (px, py), (gx, gy) = world.blocks[0, :2].tolist(), world.blocks[1, :2].tolist()
    _draw_disc(camera, image, (gx, gy, w.TABLE_Z + 0.001), w.GOAL_M + 0.008, (40, 150, 70))
    _draw_disc(camera, image, (gx, gy, w.TABLE_Z + 0.001), w.GOAL_M - 0.008, (236, 240, 236))
    _draw_cylinder(camera, image, (px, py, w.TABLE_Z), w.PILLAR_M, 0.07, (98, 74, 150))


def _render_moving(
    camera: Camera, image: Frame, world: TableWorld, goes_round: bool, with_palm: bool,
    with_tube: bool = True,
) -> Frame:  # fmt: skip
    import cv2

    if goes_round:
        _draw_pillar_and_goal(camera, image, world)
    _draw_shadows(camera, image, world, goes_round)
    solids = _gripper_boxes(world, with_palm, with_tube)
    if not goes_round:
        solids += [_block_box(world, b) for b in range(3) if world.blocks[b, 2] > w.TABLE_Z]
    _draw_boxes(camera, image, solids)
    size = camera.size // OVERSAMPLING
    return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


@functools.cache
def _static_background(near: bool = False) -> tuple[Camera, Frame]:
    up, size = np.array([0.0, 0.0, 1.0]), STATIC * OVERSAMPLING
    camera = Camera.look_at(EYE, TARGET, up, FOV, size)
    if near:
        camera = Camera.look_at(touching.EYE, touching.TARGET, up, touching.FOV, size)
    image = np.full((size, size, 3), FLOOR, np.uint8)
    _draw_furniture(camera, image)
    return camera, image


def static_view(world: TableWorld, goes_round: bool = False, near: bool = False) -> Frame:
    """Image of the static camera, RGB uint8 [200, 200, 3]; it stands in front: right is right.

    `near` is the camera of the scene `touch`, before which the gripper's tube hides no block.
    """
    camera, background = _static_background(near)
    image = background.copy()
    _draw_movable(camera, image, world)
    return _render_moving(camera, image, world, goes_round, with_palm=True, with_tube=not near)


def gripper_view(world: TableWorld, goes_round: bool = False) -> Frame:
    """Image of the camera behind the fingertips, RGB uint8 [84, 84, 3]."""
    yaw = world.tip[5] - np.pi / 2
    back = np.array([np.sin(yaw), -np.cos(yaw), 0.0])  # towards the robot at rest
    eye = world.tip[:3] + 0.075 * back + [0, 0, 0.13]
    camera = Camera.look_at(
        eye, world.tip[:3] - 0.01 * back, -back, GRIPPER_FOV, GRIPPER * OVERSAMPLING
    )
    image = np.full((camera.size, camera.size, 3), FLOOR, np.uint8)
    _draw_furniture(camera, image)
    _draw_movable(camera, image, world)
    return _render_moving(camera, image, world, goes_round, with_palm=False)
