"""Books made of drawn shapes, written from the description of the format and nothing else."""

import base64
import io

import numpy as np
import pycocotools.mask
from PIL import Image

COLORS = ["#e6194b", "#3cb44b", "#4363d8", "#ffe119", "#f58231", "#911eb4", "#42d4f4", "#f032e6"]
NAMES = ["left", "右のはさみ", "مقص", "игла", "gauze", None, "é́tui 🩹", "needle"]


def encode_mask(mask: np.ndarray) -> str:
    """Return a mask [h, w] as COCO's run lengths, row by row; an empty one as nothing."""
    if not mask.any():
        return ""
    return pycocotools.mask.encode(np.asfortranarray(mask.T.astype(np.uint8)))["counts"].decode()


def decode_mask(text: str, height: int, width: int) -> np.ndarray:
    """Return what `encode_mask` was given."""
    if not text:
        return np.zeros((height, width), bool)
    return pycocotools.mask.decode({"size": [width, height], "counts": text.encode()}).T > 0


def jpeg(image: np.ndarray) -> str:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def _disc(height, width, x, y, radius) -> np.ndarray:
    ys, xs = np.mgrid[:height, :width]
    return (xs - x) ** 2 + (ys - y) ** 2 < radius**2


class Scene:
    """Discs that move over a grainy ground; the second one is away in the middle of the clip."""

    def __init__(self, seed: int, num_objects: int, num_frames: int, height: int, width: int):
        rng = np.random.default_rng(seed)
        self.shape = (height, width)
        ys, xs = np.mgrid[:height, :width]
        ground = 90 + 40 * np.sin(xs / 17 + seed) + 30 * np.cos(ys / 11)
        ground = ground + rng.normal(0, 8, (height, width))
        self.ground = np.stack([ground * 1.05, ground * 0.9, ground * 0.8], -1)
        self.radii = rng.uniform(0.06, 0.16, num_objects) * min(height, width)
        self.start = rng.uniform(0.15, 0.85, (num_objects, 2)) * (width, height)
        self.speed = rng.uniform(-1, 1, (num_objects, 2)) * min(height, width) / num_frames / 1.5
        self.tints = rng.uniform(40, 230, (num_objects, 3))
        self.num_frames, self.num_objects = num_frames, num_objects

    def is_away(self, t: int, k: int) -> bool:
        return k == 1 and 0.4 < t / self.num_frames < 0.6

    def mask(self, t: int, k: int, shift=(0.0, 0.0), scale=1.0) -> np.ndarray:
        x, y = self.start[k] + self.speed[k] * t + shift
        return _disc(*self.shape, x, y, self.radii[k] * scale)

    def truth(self, t: int) -> np.ndarray:
        empty = np.zeros(self.shape, bool)
        return np.stack(
            [empty if self.is_away(t, k) else self.mask(t, k) for k in range(self.num_objects)]
        )

    def image(self, t: int) -> np.ndarray:
        image = self.ground.copy()
        for k, mask in enumerate(self.truth(t)):
            image[mask] = 0.35 * image[mask] + 0.65 * self.tints[k]
        return image.clip(0, 255).astype(np.uint8)

    def prediction(self, t: int, skill: float) -> np.ndarray:
        """Grow worse with time and with every object; the last one is lost halfway at low skill."""
        out = []
        for k in range(self.num_objects):
            drift = (
                (1 - skill) * self.radii[k] * (0.3 + 1.6 * t / self.num_frames) * (0.6 + 0.2 * k)
            )
            lost = k == self.num_objects - 1 and t > self.num_frames * (0.3 + skill * 0.4)
            away = self.is_away(t, k) and skill > 0.5
            shown = self.mask(t, k, (drift, drift * 0.4), 0.7 + 0.3 * skill)
            out.append(np.zeros(self.shape, bool) if lost or away else shown)
        return np.stack(out)


def _number(value: float):
    return None if np.isnan(value) else float(value)


def iou(gt: np.ndarray, pred: np.ndarray):
    union = (gt | pred).sum()
    return None if union == 0 else float((gt & pred).sum() / union)


def _scores(gt: np.ndarray, pred: np.ndarray, prompted: bool) -> list[dict]:
    scores = []
    for g, p in zip(gt, pred, strict=True):
        value = iou(g, p)
        word = "lost" if g.any() and not (g & p).any() else None
        word = "false alarm" if p.any() and not g.any() else word
        scores.append(
            {
                "iou": value,
                "predicted_iou": None if value is None else round(0.2 + 0.75 * value, 3),
                "object_score": 6.5 if p.any() else -4.25,
                "word": word,
            }
        )
    return scores


def _prompts(scene: Scene, t: int, kind: str) -> list[dict]:
    if t > 0 and not (kind == "click" and t == 3):
        return []
    prompts = []
    for k in range(scene.num_objects):
        # the centre of the first pixel is at (0.5, 0.5)
        x, y = (scene.start[k] + scene.speed[k] * t + 0.5).tolist()
        radius = scene.radii[k]
        if kind == "click":
            first = {"kind": "click", "x": x, "y": y, "positive": True, "round": 0 if t == 0 else 1}
            prompts.append({"object": k, **first})
            if k == 0:
                second = {"x": x + radius, "y": y + radius, "positive": False, "round": 1}
                prompts.append({"object": k, "kind": "click", **second})
        elif kind == "box":
            box = [x - radius, y - radius, x + radius, y + radius]
            prompts.append({"object": k, "kind": "box", "box": box})
        else:
            prompts.append({"object": k, "kind": "mask", "mask": encode_mask(scene.mask(t, k))})
    return prompts


def event(scene: Scene, step: int, skill: float, kind: str) -> dict:
    """Return one event of a clip; its errors are those of its masks, so that none differ."""
    pred, errors, scores = [], [], []
    for t in range(scene.num_frames):
        gt, found = scene.truth(t), scene.prediction(t, skill)
        if t == 0 and kind == "mask":
            found = gt.copy()
        pred.append([encode_mask(mask) for mask in found])
        errors.append({"hit": "", "missed": "", "false": ""})
        scores.append(_scores(gt, found, t == 0))
    ious = [s["iou"] for frame in scores[1:] for s in frame if s["iou"] is not None]
    prompted = [t == 0 or (kind == "click" and t == 3) for t in range(scene.num_frames)]
    return {
        "step": step, "epoch": step // 100, "gt": None, "pred": pred, "errors": errors,
        "prompts": [_prompts(scene, t, kind) for t in range(scene.num_frames)],
        "scores": scores, "prompted": prompted,
        "mean_iou": float(np.mean(ious)) if ious else None,
    }  # fmt: skip


def clip(
    key: str, name: str, *, kind="pinned", stage="val", seed=0, objects=3, frames=12,
    size=(128, 128), steps=(0, 100, 200, 300), prompt="click", gain=1.0, names=NAMES,
) -> dict:  # fmt: skip
    """Return a clip whose predictions get better with the steps."""
    scene = Scene(seed, objects, frames, *size)
    top = max(max(steps), 1)
    events = [event(scene, step, min(1, 0.15 + 0.8 * gain * step / top), prompt) for step in steps]
    return {
        "key": key, "name": name, "kind": kind, "stage": stage,
        "width": size[1], "height": size[0],
        "frame_numbers": [2 * t for t in range(frames)],
        "images": [jpeg(scene.image(t)) for t in range(frames)],
        "objects": [
            {"id": str(k), "name": names[k % len(names)], "color": COLORS[k % len(COLORS)]}
            for k in range(objects)
        ],
        "gt": [[encode_mask(mask) for mask in scene.truth(t)] for t in range(frames)],
        "events": events,
    }  # fmt: skip


def _object_rows(clips: list[dict]) -> list[dict]:
    rows = []
    for made in clips:
        if made["stage"] != "val" or not made["events"]:
            continue
        for k, thing in enumerate(made["objects"]):
            per_event = [
                [e["scores"][t][k]["iou"] for t, given in enumerate(e["prompted"]) if not given]
                for e in made["events"]
            ]
            means = [np.mean([1.0 if x is None else x for x in found]) for found in per_event]
            bad = [
                t for t, frame in enumerate(made["events"][-1]["scores"])
                if frame[k]["iou"] is not None and frame[k]["iou"] < 0.5
            ]  # fmt: skip
            rows.append(
                {
                    "video": made["name"], "object": thing["id"], "name": thing["name"],
                    "baseline": float(means[0]) if len(means) > 1 else None,
                    "now": float(means[-1]),
                    "first_bad_frame": made["frame_numbers"][bad[0]] if bad else None,
                    "clip": made["key"],
                }
            )  # fmt: skip
    return rows


def run(name: str, clips: list[dict], gain: float = 1.0, unseen: int = 6) -> dict:
    """Return a run with curves; `unseen` more objects were validated and have no clip."""
    rng = np.random.default_rng(7)
    rows = _object_rows(clips)
    for k in range(unseen):
        before, now = sorted(rng.uniform(0.1, 0.9, 2))
        if k == 0:
            before, now = now, before
        rows.append(
            {
                "video": f"video {k + 10}", "object": str(k % 3), "name": None,
                "baseline": float(before), "now": float(now * gain),
                "first_bad_frame": None if now > 0.6 else 8, "clip": None,
            }
        )  # fmt: skip
    steps = sorted({e["step"] for c in clips if c["stage"] == "val" for e in c["events"]}) or [0]
    rise = [0.25 + 0.55 * gain * (1 - np.exp(-3 * s / (max(steps) or 1))) for s in steps]
    train = list(range(0, max(steps) + 1, max(1, max(steps) // 150)))
    loss = [4 * np.exp(-s / (max(steps) / 3 + 1)) + 0.6 + rng.normal(0, 0.15) for s in train]
    lost = [value * 3 for value in reversed(rise)]
    curves = {
        "train/loss": {"steps": train, "values": [float(x) for x in loss]},
        "lr": {"steps": train, "values": [1e-3 * (1 - s / (max(steps) + 1)) for s in train]},
        **{
            f"val/{key}": {"steps": steps, "values": [float(x * factor) for x in rise]}
            for key, factor in (("iou", 1), ("J", 1), ("F", 0.9), ("J&F", 0.95), ("dice", 1.1))
        },
        "val/loss": {"steps": steps, "values": [float(x) for x in lost]},
        **{
            f"val/iou/{key}": {"steps": steps, "values": [float(x * f) for x in rise]}
            for key, f in (("left", 0.9), ("gauze", 1.05), ("игла", 0.6))
        },
    }
    return {
        "name": name, "step": max(steps), "baseline_step": min(steps),
        "started": "2025-03-04T09:12:00+00:00", "finished": "2025-03-04T10:02:41+00:00",
        "settings": [
            ["optim.lr", f"{0.0005 * gain:.5g}", "0.001"], ["data", "vos_folder", "synthetic"],
            ["visualizations.enabled", "true", "false"], ["trainer.max_steps", "300", None],
        ],
        "versions": [["python", "3.11.7"], ["torch", "2.13.0"], ["lightning", "2.6.0"]],
        "cost": {
            "events": 9, "dropped": 1, "blocked_ms_median": 12.3, "blocked_share": 0.0042,
            "render_ms_median": 88.1,
        },
        "notes": ["2 training clips were thinned out: the folder holds at most 200 MB"],
        "curves": curves, "objects": rows, "clips": clips,
    }  # fmt: skip


def book(*runs: dict, title: str = "default") -> dict:
    return {"format": 2, "title": title, "runs": list(runs)}


def usual_clips(gain: float = 1.0) -> list[dict]:
    """Return clips of every kind: clicks, boxes and masks, square and wide."""
    return [
        clip("val/0", "surgery 手術 01", seed=1, objects=3, prompt="click", gain=gain),
        clip("val/1", "horse jump", seed=2, objects=2, size=(90, 160), prompt="mask", gain=gain),
        clip("val/2", "night", kind="worst", seed=3, objects=4, prompt="box", gain=gain * 0.7),
        clip(
            "train/0", "synthetic 00035", kind="train", stage="train", seed=4, objects=2, frames=4,
            steps=(200, 300), prompt="click", gain=gain,
        ),
    ]  # fmt: skip
