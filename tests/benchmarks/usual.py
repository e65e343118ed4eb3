"""How others draw the same: the ordinary trainer's pyplot, and libraries where installed."""

import io
from collections.abc import Callable
from typing import Any, Optional

import matplotlib
import numpy as np
from PIL import Image

from core.visualization.clip import Clip
from core.visualization.drawing.paint import FALSE, HIT, MISSED
from core.visualization.palette import category_color

matplotlib.use("Agg")


def draw_the_usual_way(clip: Clip, inches: float = 10) -> list[bytes]:
    """Draw one 2 x 2 pyplot figure per frame and encode it, as loggers do, with PIL's defaults.

    Args:
        clip: At its full size: the usual way reduces nothing.
        inches: Side of a figure of 100 pixels per inch; the default shows 512 px at natural size.
    """
    import matplotlib.pyplot as plt

    pictures = []
    for index in range(len(clip.images)):
        image, gt, pred = clip.images[index], clip.gt.masks[index], clip.pred.masks[index]
        figure, axes = plt.subplots(2, 2, figsize=(inches, inches), dpi=100)
        axes[0, 0].imshow(image)
        axes[0, 0].set_title("image")
        for axis, masks, title in ((axes[0, 1], gt, "ground truth"), (axes[1, 1], pred, "pred")):
            axis.imshow(image)
            axis.set_title(title)
            for category, mask in enumerate(masks):
                overlay = np.zeros((*mask.shape, 4), np.float32)
                overlay[mask] = (*(channel / 255 for channel in category_color(category)), 0.5)
                axis.imshow(overlay)
        axes[1, 0].imshow(image)
        axes[1, 0].set_title("prompts")
        for category, mask in enumerate(gt):
            ys, xs = np.nonzero(mask)
            if len(xs):
                color = np.array([category_color(category)]) / 255
                axes[1, 0].scatter([xs.mean()], [ys.mean()], c=color, marker="*", s=120)
        for axis in axes.flat:
            axis.axis("off")
        figure.tight_layout()
        figure.canvas.draw()
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3]).save(buffer, "png")
        plt.close(figure)
        pictures.append(buffer.getvalue())
    return pictures


def error_masks(gt: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """Return hit, missed and false over all objects: [3, H, W] bool."""
    return np.stack([(gt & pred).any(0), (gt & ~pred).any(0), (pred & ~gt).any(0)])


def panel_masks(clip: Clip, index: int) -> list[tuple[np.ndarray, list[tuple[int, int, int]]]]:
    """Return masks and colours of the four panels that have any: the same as on our sheets."""
    gt, pred = clip.gt.masks[index], clip.pred.masks[index]
    prompts = [p for p in clip.frames[index].prompts if p.mask is not None]
    prompt_masks = np.zeros((0, *gt.shape[1:]), bool)
    if prompts:
        prompt_masks = np.stack([p.mask.numpy().astype(bool) for p in prompts])
    colors = [category_color(category) for category in range(len(gt))]
    return [
        (gt, colors),
        (prompt_masks, [category_color(p.obj_id) for p in prompts]),
        (pred, colors),
        (error_masks(gt, pred), [HIT, MISSED, FALSE]),
    ]


def peers() -> tuple[dict[str, Callable[[Clip], Any]], list[str]]:
    """Return the libraries that can be imported, each as a function that draws a clip's panels."""
    found: dict[str, Callable[[Clip], Any]] = {}
    notes = []
    for name, make in (
        ("supervision", _supervision),
        ("mmengine", _mmengine),
        ("torchvision", _torchvision),
    ):
        try:
            found[name] = make()
        except Exception as error:  # a broken installation is as good as none
            notes.append(f"{name} is left out: {type(error).__name__}: {error}".splitlines()[0])
    return found, notes


def _supervision() -> Callable[[Clip], Any]:
    import supervision as sv

    def draw(clip: Clip) -> list[np.ndarray]:
        panels = []
        for index, image in enumerate(clip.images):
            panels.append(image.copy())
            for masks, colors in panel_masks(clip, index):
                panel = image.copy()
                present = [k for k, mask in enumerate(masks) if mask.any()]
                if present:
                    masks = masks[present]
                    detections = sv.Detections(
                        xyxy=sv.mask_to_xyxy(masks), mask=masks, class_id=np.array(present)
                    )
                    palette = sv.ColorPalette([sv.Color(*color) for color in colors])
                    panel = sv.MaskAnnotator(color=palette, opacity=0.5).annotate(panel, detections)
                    panel = sv.PolygonAnnotator(color=palette, thickness=1).annotate(
                        panel, detections
                    )
                panels.append(panel)
        return panels

    return draw


def _mmengine() -> Callable[[Clip], Any]:
    from mmengine.visualization import Visualizer

    def draw(clip: Clip) -> list[np.ndarray]:
        panels = []
        visualizer: Optional[Visualizer] = None
        for index, image in enumerate(clip.images):
            panels.append(image.copy())
            for masks, colors in panel_masks(clip, index):
                visualizer = visualizer or Visualizer()
                visualizer.set_image(image)
                if len(masks):
                    visualizer.draw_binary_masks(masks, colors=colors, alphas=0.5)
                panels.append(visualizer.get_image())
        return panels

    return draw


def _torchvision() -> Callable[[Clip], Any]:
    import torch
    from torchvision.utils import draw_segmentation_masks

    def draw(clip: Clip) -> list[Any]:
        panels = []
        for index, image in enumerate(clip.images):
            tensor = torch.from_numpy(image).permute(2, 0, 1)
            panels.append(tensor.clone())
            for masks, colors in panel_masks(clip, index):
                panels.append(
                    draw_segmentation_masks(tensor, torch.from_numpy(masks), 0.5, colors)
                    if len(masks)
                    else tensor.clone()
                )
        return panels

    return draw
