"""Which source reads a JSON file, from what it holds."""

from typing import Any, Optional

# where tools write which object an annotation belongs to, from frame to frame
_TRACK_KEYS = ("track_id", "instance_id")
# So many annotations are asked for a track.
_LOOKED_AT = 1000


def track_of(annotation: Any) -> Any:
    """Return what an annotation calls its object from frame to frame, None where it has no name.

    TAO and BDD100K write `track_id`, CocoVID `instance_id`, CVAT `attributes.track_id`.
    """
    if not isinstance(annotation, dict):
        return None
    attributes = annotation.get("attributes")
    places = (annotation, attributes if isinstance(attributes, dict) else {})
    found = (place[key] for place in places for key in _TRACK_KEYS if place.get(key) is not None)
    # pandas makes 1.0 of 1 where one of a column is missing
    whole = (int(value) if _is_whole(value) else value for value in found)
    return next((value for value in whole if isinstance(value, (int, str))), None)


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer()


def kind_of_json(content: Any) -> Optional[str]:
    """Return the source that reads a JSON file, None where none does."""
    if not isinstance(content, dict):
        return None
    if "masklet" in content:
        return "sav"
    if isinstance(content.get("image"), dict) and isinstance(content.get("annotations"), list):
        return "sa1b"
    if "file_names" in _first(content, "videos"):
        return "youtube_vis"
    if not isinstance(content.get("images"), list):
        return None
    # before `video_id`, which CocoVID has beside tracks: as slots all cars would be one object
    if any(track_of(annotation) is not None for annotation in _some(content, "annotations")):
        return "coco_video data.objects=instances"
    if _first(content, "images").get("video_id") is not None:
        return "coco_video"
    return "coco_images" if "file_name" in _first(content, "images") else None


def hint_at_kind(content: Any, source: str) -> str:
    """Return which other source reads a file, to be put behind a message; empty: none is known."""
    kind = kind_of_json(content)
    return (
        "" if kind is None or kind.split()[0] == source else f"; it looks like one for data={kind}"
    )


def _some(content: dict, key: str) -> list:
    """Return the first items of a list: tracks may begin behind shapes that belong to none."""
    items = content.get(key)
    return items[:_LOOKED_AT] if isinstance(items, list) else []


def _first(content: dict, key: str) -> dict:
    """Return the first mapping of a list, an empty one where there is none."""
    first = next(iter(_some(content, key)), None)
    return first if isinstance(first, dict) else {}
