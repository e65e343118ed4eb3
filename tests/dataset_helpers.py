"""Small data sets on disk, in the formats that are read."""

import numpy as np
from PIL import Image
from pycocotools import mask as mask_utils

HEIGHT, WIDTH = 24, 32


def label_map(*objects: int) -> np.ndarray:
    """Object k is an 8 x 8 square in the k-th column of squares."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for k in objects:
        labels[8:16, 8 * (k - 1) : 8 * k] = k
    return labels


def save_frame(path, number: int, size=(WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (10 * number % 256, 100, 200)).save(path, quality=95)


def save_mask(path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels, mode="P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(path)


def make_video(root, name="a", objects=((1,),) * 6, suffix="jpg", between="", every=1) -> None:
    """Write one video; frame t has `objects[t]`, masks for every `every`-th frame."""
    for t, visible in enumerate(objects):
        save_frame(root / "JPEGImages" / between / name / f"{t:05d}.{suffix}", t)
        if t % every == 0:
            save_mask(root / "Annotations" / between / name / f"{t:05d}.png", label_map(*visible))


def rle(mask: np.ndarray) -> dict:
    encoded = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def coco_content(root, videos=("x", "y"), num_frames=4) -> dict:
    """Category 7 is object 1 in every frame; category 3 (two parts) from frame 1 on."""
    images, annotations = [], []
    for video in videos:
        # listed backwards: order_in_video decides
        for t in reversed(range(num_frames)):
            image_id = len(images) + 100
            name = f"{video}/{t:03d}.png"
            save_frame(root / "frames" / name, t)
            images.append(
                {
                    "id": image_id,
                    "file_name": name,
                    "path": f"/elsewhere/{name}",
                    "video_id": video,
                    "order_in_video": t,
                    "width": WIDTH,
                    "height": HEIGHT,
                }
            )
            add = [(7, rle(label_map(1) > 0)), (9, None)]
            if t > 0:
                box = [16, 8, 24, 8, 24, 16, 16, 16]
                add += [(3, rle(label_map(2) > 0)), (3, [box])]
            annotations += [
                {"image_id": image_id, "category_id": key, "segmentation": value}
                for key, value in add
            ]
    categories = [{"id": 7, "name": "hook"}, {"id": 3, "name": "clip"}, {"id": 9, "name": "bag"}]
    return {"images": images, "annotations": annotations, "categories": categories}
