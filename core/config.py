"""The typed configuration: one dataclass per section, checked when it is built.

Hydra composes ``configs/`` on top of these dataclasses, so a key that does not exist or a value of
the wrong type fails at composition. `to_config` then turns the result into plain dataclasses, whose
settings `Section` checks: a value that makes no sense is refused with the name of its field, the
value found and what is allowed. Nothing behind `train.py` ever sees a ``DictConfig``.
"""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, List, Optional  # noqa: UP035 (OmegaConf reads List)

from .checks import (
    A_PATH,
    ANY_VALUE,
    TRUE_OR_FALSE,
    Rule,
    Section,
    UserError,
    at_least,
    between,
    greater_than,
    nearest,
    number,
    one_of,
    or_null,
    require,
    setting,
    whole,
    within,
)

if TYPE_CHECKING:
    from omegaconf import DictConfig

CONFIG_DIR = Path(__file__).resolve().parent.parent / "configs"
PROMPT_TYPES = ("point", "bbox", "mask", "mixed")
# of `mixed` training, which validates under each of them
MIXED_PROMPTS = ("mask", "bbox", "point")
# SAM 2's batches hold float32 frames, which a model in pure half or double precision does not take.
PRECISIONS = ("32-true", "32", "bf16-mixed", "bf16", "16-mixed", "16")
LOGGERS = ("swanlab", "wandb", "tensorboard", "csv")
ARCHITECTURES = (
    "tiny",
    "sam2.1_hiera_tiny",
    "sam2.1_hiera_small",
    "sam2.1_hiera_base_plus",
    "sam2.1_hiera_large",
)
TRAINABLE_PRESETS = ("all", "memory", "decoder_memory", "all_but_image_encoder")
CHECKPOINTING = ("none", "image_encoder", "clicks", "memory_attention", "loss", "all")
LORA_PRESETS = ("memory", "decoder_memory", "image_encoder", "all")
# The outcomes of `core.metrics.outcomes` that are failures.
FAILURES = (
    "swapped", "false_alarm", "lost", "merged", "ragged", "drifting", "leaking", "partial",
)  # fmt: skip
DATA_SOURCES = (
    "synthetic", "vos_folder", "png_folders", "sav", "sa1b", "mots",
    "coco_video", "youtube_vis", "coco_images", "auto",
)  # fmt: skip
# sources that are one JSON file per split
JSON_SOURCES = ("coco_video", "youtube_vis", "coco_images")
# sources whose clips have one frame
IMAGE_SOURCES = ("coco_images", "sa1b")
# what `data.index` says for none
NO_INDEX = "off"
# clips of one video that validate where nobody says how many
MOST_VAL_CLIPS = 8

_PROBABILITY = Rule("a probability in [0, 1]", lambda value: 0 <= value <= 1)
_IMAGE_SIZE = Rule("a multiple of 32, at least 64", lambda value: value >= 64 and value % 32 == 0)
_CHECKPOINTING = Rule(
    f"one of {', '.join(CHECKPOINTING)}",
    lambda value: isinstance(value, bool) or value in CHECKPOINTING,
    CHECKPOINTING,
)
_MODULE_NAMES = Rule(
    f"null, a preset ({', '.join(TRAINABLE_PRESETS)}) or a list of module names",
    lambda value: (
        value is None
        or isinstance(value, str)
        or (
            isinstance(value, (list, tuple))
            and len(value) > 0
            and all(isinstance(name, str) for name in value)
        )
    ),
)
_LORA_MODULES = Rule(
    f"a preset ({', '.join(LORA_PRESETS)}) or a list of presets and module names",
    lambda value: (
        isinstance(value, str)
        or (
            isinstance(value, (list, tuple))
            and len(value) > 0
            and all(isinstance(name, str) for name in value)
        )
    ),
)
_LOGGER_NAMES = Rule(
    f"null, one of {', '.join(LOGGERS)}, or a list of them",
    lambda value: value is None or isinstance(value, (str, list, tuple)),
)
_BETAS = Rule(
    "two numbers in [0, 1)",
    lambda value: len(value) == 2 and all(0 <= beta < 1 for beta in value),
)
_MAX_EPOCHS = Rule(
    "at least 1, or null or -1 for no limit",
    lambda value: value is None or value == -1 or value >= 1,
)
_DEVICE_TEXT = re.compile(r"auto|-1|[1-9]\d*|\d+(, ?\d+)+,?")
_DEVICES = Rule(
    "auto, a number of devices, -1 for all of them, or a list of their numbers",
    lambda value: (
        (type(value) is int and (value == -1 or value >= 1))
        or (isinstance(value, str) and bool(_DEVICE_TEXT.fullmatch(value)))
        or (isinstance(value, list) and len(value) > 0 and all(type(n) is int for n in value))
    ),
)
_INTERVAL = Rule(
    "null, a number of batches (at least 1) or a share of an epoch in (0, 1]",
    lambda value: (
        value is None
        or (type(value) is int and value >= 1)
        or (isinstance(value, float) and 0 < value <= 1)
    ),
)
_VAL_PROMPTS = Rule(
    f"null or a list of some of {', '.join(MIXED_PROMPTS)}, each once",
    lambda value: (
        value is None or (0 < len(value) == len(set(value)) and set(value) <= set(MIXED_PROMPTS))
    ),
)
_DETERMINISTIC = Rule(
    "null, true, false or warn",
    lambda value: value is None or isinstance(value, bool) or value == "warn",
)
_FAST_DEV_RUN = Rule(
    "true, false or a number of batches", lambda value: isinstance(value, int) and value >= 0
)
# What SwanLab takes; it would refuse the others where a run starts.
_TAGS = Rule(
    "null or at most 30 texts of at most 512 characters",
    lambda value: (
        value is None or (len(value) <= 30 and all(len(str(tag)) <= 512 for tag in value))
    ),
)
_FILE_NAME = Rule(
    '1 to 512 characters other than < > : " / \\ | ? * # %',
    lambda value: bool(re.fullmatch(r'[^<>:"/\\|?*#%\x00-\x1f\x7f]{1,512}', value)),
)


def _name(most: int, others: str) -> Rule:
    return Rule(
        f"1 to {most} of the letters A-Z and a-z, digits and {' '.join(others)}",
        lambda value: bool(re.fullmatch(f"[0-9a-zA-Z{re.escape(others)}]{{1,{most}}}", value)),
    )


def _text(most: int) -> Rule:
    return Rule(f"a text of 1 to {most} characters", lambda value: 1 <= len(value) <= most)


def _limit(least: int) -> Rule:
    """Allow what Lightning takes as a limit of batches: a number of them, or a share."""
    return Rule(
        f"null, a number of batches (at least {least}) or a share in {'(' if least else '['}0, 1]",
        lambda value: (
            value is None
            or (type(value) is int and value >= least)
            or (
                isinstance(value, float)
                and (0 < value <= 1 or (value == 0 and not least) or (value > 1 and value % 1 == 0))
            )
        ),
    )


# Part of the name of a curve and of a folder.
_SOURCE_NAME = Rule(
    "1 to 64 letters, digits, dots, dashes and underscores, a letter or digit first",
    lambda value: bool(re.fullmatch(r"[^\W_][\w.-]{0,63}", value)),
)


_MAX_STEPS = Rule("at least 1, or -1 for no limit", lambda value: value >= -1 and value != 0)


@dataclass
class LoraConfig(Section):
    """Low-rank adapters, trained in place of the weights of linear layers."""

    prefix: ClassVar[str] = "model.lora."

    rank: Optional[int] = setting(
        None, or_null(at_least(1)), "rank of the adapters; null: no adapters"
    )
    modules: Any = setting(
        "all",
        _LORA_MODULES,
        "which linear layers get adapters: a preset (`memory`, `decoder_memory`, `image_encoder`, "
        "`all` of these) or a list of presets and SAM 2 module names",
    )
    alpha: Optional[float] = setting(
        None,
        or_null(greater_than(0)),
        "the adapter's output is multiplied by alpha / rank; null: by 1",
    )
    dropout: float = setting(0.0, within("[0, 1)"), "dropout on the adapter's input")

    def __post_init__(self) -> None:
        """Check the settings; make a list of the modules."""
        super().__post_init__()
        self.modules = [self.modules] if isinstance(self.modules, str) else list(self.modules)


@dataclass
class ModelConfig(Section):
    """The SAM 2 that is trained."""

    prefix: ClassVar[str] = "model."

    architecture: str = setting(
        "tiny",
        one_of(*ARCHITECTURES, "auto"),
        "`tiny` (1.5 M parameters, learns the synthetic task in minutes), the name of a released "
        "model, built from the YAML inside the `sam2` package, or `auto`: that of the weights in "
        "`checkpoint_path`",
    )
    checkpoint_path: Optional[str] = setting(
        None,
        A_PATH,
        "released or exported weights: a .pt file, a checkpoint, a folder or .safetensors file of "
        "Hugging Face's `Sam2VideoModel`, or `hf:OWNER/NAME[@REVISION]` of its hub; null starts "
        "from random weights",
    )
    image_size: int = setting(
        128,
        _IMAGE_SIZE,
        "side in pixels of the square frames given to the model, a multiple of 32",
    )
    prompt_type: str = setting(
        "mask",
        one_of(*PROMPT_TYPES),
        "`point`, `bbox`, `mask`, or `mixed` (drawn at random per batch with the probabilities of "
        "official training: mask 0.5, point 0.25, box 0.25)",
    )
    num_correction_points: int = setting(
        7, at_least(1), "correction clicks per corrected frame (point and box prompts only)"
    )
    num_frames_to_correct: int = setting(
        1, at_least(1), "largest number of frames that receive clicks in training"
    )
    num_init_cond_frames: int = setting(
        1, at_least(1), "largest number of frames that are prompted from the start in training"
    )
    trainable_modules: Any = setting(
        None,
        _MODULE_NAMES,
        "null or `all`: everything is trained (null with `lora.rank`: the adapters alone); a "
        "preset (`memory`, `decoder_memory`, `all_but_image_encoder`) or a list of SAM 2 module "
        "names: every parameter outside them is frozen, adapters aside",
    )
    lora: LoraConfig = field(default_factory=LoraConfig)
    activation_checkpointing: Any = setting(
        "none",
        _CHECKPOINTING,
        "what is computed again in the backward pass, to save memory: `none`, `image_encoder`, "
        "`clicks` (the decoder behind each correction click), `memory_attention`, `loss` or `all`; "
        "true and false are `image_encoder` and `none`",
    )
    compile_image_encoder: bool = setting(
        False, ANY_VALUE, "run the image encoder through `torch.compile`"
    )

    def __post_init__(self) -> None:
        """Check the settings and those that depend on each other."""
        super().__post_init__()
        require(
            self.num_frames_to_correct >= self.num_init_cond_frames,
            "model.num_frames_to_correct",
            self.num_frames_to_correct,
            f"at least model.num_init_cond_frames ({self.num_init_cond_frames})",
        )
        if isinstance(self.activation_checkpointing, bool):  # of older configurations
            self.activation_checkpointing = (
                "image_encoder" if self.activation_checkpointing else "none"
            )
        names = self.trainable_modules
        if names is not None:
            self.trainable_modules = [names] if isinstance(names, str) else list(names)


@dataclass
class AugmentationConfig(Section):
    """Augmentation of training clips, the same for every frame of a clip unless said otherwise.

    The defaults flip only. Official MOSE fine-tuning uses degrees 25, shear 20, brightness 0.1,
    contrast 0.03, saturation 0.03 per clip, grayscale 0.05 and, per frame (``jitter_per_frame``),
    brightness 0.1, contrast 0.05, saturation 0.05.
    """

    prefix: ClassVar[str] = "data.augmentation."

    horizontal_flip: float = setting(0.5, _PROBABILITY, "probability of mirroring the clip")
    degrees: float = setting(0.0, within("[0, 180]"), "rotation drawn from [-degrees, degrees]")
    shear: float = setting(
        0.0, within("[0, 90)"), "shear angle in degrees drawn from [-shear, shear]"
    )
    brightness: float = setting(
        0.0, within("[0, 1)"), "factor on the brightness, drawn from [1 - b, 1 + b]"
    )
    contrast: float = setting(
        0.0, within("[0, 1)"), "factor on the contrast, drawn from [1 - c, 1 + c]"
    )
    saturation: float = setting(
        0.0, within("[0, 1)"), "factor on the saturation, drawn from [1 - s, 1 + s]"
    )
    grayscale: float = setting(0.0, _PROBABILITY, "probability of a grey clip")
    jitter_per_frame: bool = setting(
        False, ANY_VALUE, "draw the colour factors anew for every frame as well"
    )
    frame_brightness: Optional[float] = setting(
        None, or_null(within("[0, 1)")), "brightness of jitter_per_frame; null: as for the clip"
    )
    frame_contrast: Optional[float] = setting(
        None, or_null(within("[0, 1)")), "contrast of jitter_per_frame; null: as for the clip"
    )
    frame_saturation: Optional[float] = setting(
        None, or_null(within("[0, 1)")), "saturation of jitter_per_frame; null: as for the clip"
    )
    hue: float = setting(
        0.0, within("[0, 0.5]"), "turn of the colour circle, drawn from [-hue, hue]; 0.5 is half"
    )
    scale_min: float = setting(
        1.0, greater_than(0), "factor on the picture's size, drawn from [scale_min, scale_max]"
    )
    scale_max: float = setting(1.0, greater_than(0), "largest factor on the picture's size")
    translate_x: float = setting(
        0.0, within("[0, 1]"), "shift drawn from [-translate_x, translate_x], in widths"
    )
    translate_y: float = setting(
        0.0, within("[0, 1]"), "shift drawn from [-translate_y, translate_y], in heights"
    )
    mosaic: float = setting(
        0.0, _PROBABILITY, "probability of a grid of small copies, one of them with the objects"
    )
    mosaic_rows: int = setting(2, at_least(1), "rows of that grid")
    mosaic_columns: int = setting(2, at_least(1), "columns of that grid")
    mosaic_flip: bool = setting(False, ANY_VALUE, "mirror each copy with probability 0.5")

    def __post_init__(self) -> None:
        """Check the settings and those that depend on each other."""
        super().__post_init__()
        require(
            self.scale_max >= self.scale_min,
            "data.augmentation.scale_max",
            self.scale_max,
            f"at least data.augmentation.scale_min ({self.scale_min})",
        )


@dataclass
class SyntheticConfig(Section):
    """Moving shapes on a background, deterministic by seed and clip index."""

    prefix: ClassVar[str] = "data.synthetic."

    num_train_clips: int = setting(1000, at_least(1), "clips per epoch; fresh ones every epoch")
    num_val_clips: int = setting(16, at_least(1), "validation clips, always the same")
    min_objects: int = setting(2, at_least(1), "fewest objects per clip")
    max_objects: int = setting(3, ANY_VALUE, "most objects per clip")
    min_radius: float = setting(0.125, ANY_VALUE, "smallest radius as a fraction of the image side")
    max_radius: float = setting(0.25, ANY_VALUE, "largest radius as a fraction of the image side")
    speed: float = setting(
        0.06, at_least(0), "largest movement per frame as a fraction of the image side"
    )
    texture: float = setting(
        0.0, within("[0, 1]"), "noise amplitude on background and shapes in [0, 1]"
    )
    overlap: bool = setting(False, ANY_VALUE, "let objects cross each other")
    leave_frame: bool = setting(False, ANY_VALUE, "let objects leave the frame and come back")

    def __post_init__(self) -> None:
        """Check the settings and those that depend on each other."""
        super().__post_init__()
        require(
            self.max_objects >= self.min_objects,
            "data.synthetic.max_objects",
            self.max_objects,
            f"at least data.synthetic.min_objects ({self.min_objects})",
        )
        require(
            0 < self.min_radius <= self.max_radius <= 0.5,
            "data.synthetic.min_radius, max_radius",
            (self.min_radius, self.max_radius),
            "0 < min_radius <= max_radius <= 0.5",
        )


@dataclass
class DataConfig(Section):
    """Where the clips come from, how they are cut and varied."""

    prefix: ClassVar[str] = "data."

    source: str = setting(
        "synthetic",
        one_of(*DATA_SOURCES),
        "`synthetic`; `vos_folder` (DAVIS, MOSE, YouTube-VOS); `png_folders` (one folder of PNG "
        "masks per object); `sav` (SA-V); `sa1b` (SA-1B); `mots` (MOTS PNG); `coco_video` "
        "(COCO-video JSON); `youtube_vis` (YouTube-VIS, OVIS, SAM 3's videos); `coco_images` (COCO "
        "instances, image by image); `auto` looks at `root` and takes one of these",
    )
    root: Optional[str] = setting(
        None, A_PATH, "the data set's folder (every source but `synthetic` and those of JSON files)"
    )
    image_folder: str = setting("JPEGImages", A_PATH, "frames, relative to `root`")
    annotation_folder: str = setting("Annotations", A_PATH, "masks, relative to `root`")
    train_list: Optional[str] = setting(
        None,
        A_PATH,
        "text file with one training video per line, also relative to `root`; null: the videos "
        "that `val_list` leaves, DAVIS's own lists, or a split by `val_fraction`; with "
        "`val_annotations`, all of `train_annotations`",
    )
    val_list: Optional[str] = setting(
        None,
        A_PATH,
        "text file with one validation video per line, also relative to `root`; null: DAVIS's own "
        "lists, or a split by `val_fraction`; with `val_annotations`, all of that file",
    )
    train_annotations: Optional[str] = setting(None, A_PATH, "JSON file for training")
    val_annotations: Optional[str] = setting(
        None, A_PATH, "JSON file for validation; null: split by `val_fraction`"
    )
    image_root: Optional[str] = setting(
        None, A_PATH, "folder that `file_name` is joined to; null trusts the JSON's own paths"
    )
    val_image_root: Optional[str] = setting(
        None, A_PATH, "the same for the JSON file of validation; null: `image_root`"
    )
    val_fraction: float = setting(
        0.1,
        within("(0, 1)"),
        "share of the videos, sorted by name, kept for validation without lists",
    )
    ignore_id: Optional[int] = setting(
        None,
        or_null(whole(within("[1, 255]"))),
        "value in PNG masks that marks pixels of no object and is read as background, often 255",
    )
    unlabelled: str = setting(
        "empty",
        one_of("empty", "skip"),
        "images of a COCO-video JSON without an annotation: `empty` takes them as frames without "
        "objects, `skip` leaves them out",
    )
    objects: Optional[str] = setting(
        None,
        or_null(one_of("categories", "instances")),
        "what an object of a COCO-video JSON is: `categories` one mask slot per category, "
        "`instances` each track (`track_id`, `instance_id` or CVAT's `attributes.track_id`); null: "
        "`categories`, but for what `auto` finds tracks in",
    )
    num_frames: int = setting(
        4,
        at_least(1),
        "frames per clip (T); 1: single frames, trained as images are; images have 1 always",
    )
    # A video that has fewer, from its first frame with an object, is used as it is when
    # `val_batch_size` is 1 and skipped otherwise, because the clips of a batch are equally long.
    val_num_frames: Optional[int] = setting(
        None,
        or_null(at_least(1)),
        "frames per validation clip, null: `num_frames`; a shorter video is used as it is when "
        "`val_batch_size` is 1 and skipped otherwise",
    )
    frame_stride: int = setting(1, at_least(1), "distance between the clip's frames in the video")
    reverse_time_prob: float = setting(
        0.0, _PROBABILITY, "probability that a training clip runs backwards"
    )
    max_objects: int = setting(3, at_least(1), "largest number of objects per clip (object layout)")
    num_categories: Optional[int] = setting(
        None,
        or_null(at_least(1)),
        "mask slots per video in the category layout; null: as many as the file has",
    )
    index: Optional[str] = setting(
        None,
        A_PATH,
        "file that keeps what was found out about the videos, so that the next run starts at once; "
        "null: one per data set in the user's cache folder, `off`: none; a folder for `sources`",
    )
    clips_per_video: Optional[int] = setting(
        None,
        or_null(at_least(1)),
        "clips drawn from each video per training epoch; null: as many as fit into it one after "
        "another",
    )
    val_clips_per_video: Optional[int] = setting(
        None,
        or_null(at_least(1)),
        "validation clips of each video, evenly spaced; null: as many as fit into it one after "
        f"another, at most {MOST_VAL_CLIPS}",
    )
    batch_size: int = setting(2, at_least(1), "clips per training batch and device (B)")
    val_batch_size: int = setting(2, at_least(1), "clips per validation batch and device")
    num_workers: Optional[int] = setting(
        0,
        or_null(at_least(0)),
        "DataLoader worker processes of each stage; null: one per core, at most 4",
    )
    max_image_pixels: int = setting(
        100_000_000, at_least(1), "frames with more pixels are refused (untrusted files)"
    )
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    # Mappings are turned into `SourceConfig`.
    sources: Optional[List[Any]] = setting(  # noqa: UP006
        None,
        Rule("null or a list of data sets", lambda value: value is None or len(value) > 0),
        "several data sets at once, each with the settings of `data` that are its own, and a "
        "`name` and a `weight`; what it leaves out is taken from `data`, paths aside",
    )

    def __post_init__(self) -> None:
        """Check the settings and those that depend on each other."""
        super().__post_init__()
        if self.num_workers is None:
            self.num_workers = min(4, num_cores())
        # YAML takes the word for false
        require(self.index != "False", "data.index", "False", "a path, or 'off' in quotes")
        if self.source in IMAGE_SOURCES:
            self.num_frames, self.val_num_frames = 1, None
        if self.sources is not None:
            self.sources = _read_sources(self.sources, self)
            return
        if self.source in JSON_SOURCES:
            require(
                self.train_annotations is not None,
                "data.train_annotations",
                self.train_annotations,
                f"the path of a JSON file for data={self.source}",
            )
        elif self.source != "synthetic":
            require(
                self.root is not None,
                "data.root",
                self.root,
                f"the data set's folder for data={self.source}",
            )

    @property
    def trains(self) -> bool:
        """Whether training clips are cut from it; validation clips always are."""
        return True


def clip_length(data: DataConfig, training: bool) -> int:
    """Return the frames of a clip: validation may have a length of its own."""
    return data.num_frames if training or data.val_num_frames is None else data.val_num_frames


def cache_folder() -> Optional[Path]:
    """Return the user's folder for what may be lost; None: nobody knows the home folder."""
    # the standard of XDG ignores a path that is not absolute
    told = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return Path(told) if Path(told).is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None


@dataclass
class SourceConfig(DataConfig):
    """One of several data sets."""

    name: Optional[str] = setting(
        None,
        or_null(_SOURCE_NAME),
        "what curves, tables and pictures call it; null: its `source`",
    )
    weight: Optional[float] = setting(
        None,
        or_null(at_least(0)),
        "its share of the training steps is this by the sum of all weights; 0: for validation "
        "alone; null for all: every clip once per epoch",
    )

    def __post_init__(self) -> None:
        """Check the settings; name it."""
        require(self.sources is None, "data.sources", self.sources, "null in one of several")
        super().__post_init__()
        self.name = self.name or self.source

    @property
    def trains(self) -> bool:
        """See `DataConfig`."""
        return self.weight != 0


def sections_of(data: DataConfig) -> list[tuple[str, DataConfig]]:
    """Return the data sets of a run, each with what messages put before its settings' names."""
    if data.sources is None:
        return [("data.", data)]
    return [(f"data.sources[{i}].", source) for i, source in enumerate(data.sources)]


def sources_of(data: DataConfig) -> list[SourceConfig]:
    """Return the data sets of ``data.sources``, none where it is null."""
    return list(data.sources or [])


def in_source(message: str, position: int) -> str:
    """Return what is said of the settings of `data` as said of those of one of its sources."""
    names = "|".join(item.name for item in dataclasses.fields(SourceConfig))
    # Not where a folder of a path is called so.
    return re.sub(rf"(?<![\w./\\-])data\.(?=(?:{names})\b)", f"data.sources[{position}].", message)


def field_of_source(key: str) -> Optional[str]:
    """Return the setting of `data.sources.N.SETTING`, None for the name of another setting."""
    found = re.fullmatch(r"data\.sources\.\d+\.(.+)", key)
    return found and found[1]


def _read_sources(entries: Sequence[Any], data: DataConfig) -> list[SourceConfig]:
    """Return the data sets of `data.sources`, which may be mappings."""
    sources = [_source_of(entry, i, data) for i, entry in enumerate(entries)]
    names = [source.name for source in sources]
    for i, name in enumerate(names):
        first = names.index(name)
        require(
            first == i,
            f"data.sources[{i}].name",
            name,
            f"another than data.sources[{first}].name",
        )
    weights = [source.weight for source in sources]
    known = [weight is not None for weight in weights]
    if any(known):
        lacking = known.index(False) if not all(known) else 0
        require(
            all(known),
            f"data.sources[{lacking}].weight",
            weights[lacking],
            f"a number as data.sources[{known.index(True)}].weight is, or null for all data sets",
        )
        require(any(weights), "data.sources[0].weight", weights[0], "above 0 for one data set")
    return sources


def _source_of(entry: Any, position: int, data: DataConfig) -> SourceConfig:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    place = f"data.sources[{position}]"
    if isinstance(entry, SourceConfig):
        return dataclasses.replace(entry, num_workers=data.num_workers)
    example = "the settings of one data set, as in {source: vos_folder, root: DIR}"
    require(isinstance(entry, Mapping), place, entry, example)
    _check_keys_of_source(entry, place, data)
    shared = {
        item.name: getattr(data, item.name)
        for item in dataclasses.fields(DataConfig)
        if item.name != "sources" and item.metadata.get("rule") is not A_PATH
    }
    shared["index"] = data.index
    preset = CONFIG_DIR / "data" / f"{entry['source']}.yaml"
    own = dict(OmegaConf.load(preset)) if preset.is_file() else {}
    own.pop("num_workers", None)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(SourceConfig), shared, own, dict(entry))
        source = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        mark = "." if error.full_key else ": "
        raise UserError(f"{place}{mark}{in_one_sentence(error)}") from error
    except UserError as error:
        raise UserError(in_source(str(error), position)) from error
    assert isinstance(source, SourceConfig)
    return source


def _check_keys_of_source(entry: Mapping, place: str, data: DataConfig) -> None:
    names = [item.name for item in dataclasses.fields(SourceConfig)]
    for key in entry:
        if key not in names:
            raise _unknown(f"{place}.{key}", str(key), names)
    one_of(*DATA_SOURCES).check(f"{place}.source", entry.get("source"))
    workers = entry.get("num_workers", data.num_workers)
    require(
        workers == data.num_workers,
        f"{place}.num_workers",
        workers,
        f"left out: data.num_workers ({data.num_workers}) is for all data sets",
    )


def num_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass
class LossConfig(Section):
    """Weights and options of the official ``MultiStepMultiMasksAndIous``, under its own names."""

    prefix: ClassVar[str] = "loss."

    loss_mask: float = setting(20.0, at_least(0), "weight of the focal loss of the masks")
    loss_dice: float = setting(1.0, at_least(0), "weight of the Dice loss of the masks")
    loss_iou: float = setting(1.0, at_least(0), "weight of the loss of the estimated IoU")
    loss_class: float = setting(1.0, at_least(0), "weight of the loss of the object scores")
    focal_alpha: float = setting(
        0.25, ANY_VALUE, "weight of foreground against background in the focal loss"
    )
    focal_gamma: float = setting(
        2.0, ANY_VALUE, "how much less the focal loss counts pixels that are right already"
    )
    supervise_all_iou: bool = setting(
        True, ANY_VALUE, "train the estimated IoU of every candidate mask, not of the best alone"
    )
    iou_use_l1_loss: bool = setting(
        True, ANY_VALUE, "L1 loss of the estimated IoU instead of the squared error"
    )
    pred_obj_scores: bool = setting(True, ANY_VALUE, "train the object scores")
    focal_gamma_obj_score: float = setting(
        0.0, ANY_VALUE, "`focal_gamma` of the object scores; 0: plain cross entropy"
    )
    focal_alpha_obj_score: float = setting(
        -1.0, ANY_VALUE, "`focal_alpha` of the object scores; negative: no weighting"
    )


@dataclass
class OptimizerConfig(Section):
    """AdamW or Adam."""

    prefix: ClassVar[str] = "optimizer."

    name: str = setting("adamw", one_of("adamw", "adam"), "`adamw` or `adam`")
    lr: float = setting(5e-4, greater_than(0), "peak learning rate")
    image_encoder_lr: Optional[float] = setting(
        None, or_null(greater_than(0)), "peak learning rate of the image encoder; null: `lr`"
    )
    layer_decay: float = setting(
        1.0,
        within("(0, 1]"),
        "the image encoder trunk's learning rate is multiplied by this once per block counted from "
        "its output; 1 turns it off, official MOSE fine-tuning uses 0.9",
    )
    weight_decay: float = setting(
        0.01, at_least(0), "not applied to norms, biases and other one-dimensional parameters"
    )
    betas: List[float] = setting([0.9, 0.999], _BETAS, "Adam's coefficients")  # noqa: UP006


@dataclass
class SchedulerConfig(Section):
    """Learning rate over optimizer steps."""

    prefix: ClassVar[str] = "scheduler."

    name: str = setting(
        "cosine",
        one_of("cosine", "constant"),
        "`cosine` (to `final_lr_ratio` at the last step) or `constant`",
    )
    warmup_fraction: float = setting(
        0.1,
        within("[0, 1)"),
        "share of all steps over which the rate rises linearly from near 0",
    )
    final_lr_ratio: float = setting(
        0.01, within("[0, 1]"), "the last rate as a share of the peak (`cosine`)"
    )


@dataclass
class TrainerConfig(Section):
    """Arguments of ``lightning.pytorch.Trainer`` under their own names, and a few of ours.

    The weights of the last step are validated whatever the interval.
    """

    prefix: ClassVar[str] = "trainer."

    max_steps: int = setting(500, _MAX_STEPS, "optimizer steps of the training; -1: no limit")
    max_epochs: Optional[int] = setting(None, _MAX_EPOCHS, "epochs of the training; null: no limit")
    accelerator: str = setting("auto", ANY_VALUE, "`auto`, `cpu`, `gpu`, `cuda` or `mps`")
    devices: Any = setting("auto", _DEVICES, "how many devices, or which")
    num_nodes: int = setting(1, at_least(1), "machines that train together")
    strategy: str = setting(
        "auto",
        ANY_VALUE,
        "Lightning's name; `ddp`, which `auto` chooses for several processes, finds unused "
        "parameters, because which ones get a gradient depends on the prompts",
    )
    precision: str = setting(
        "32-true",
        one_of(*PRECISIONS),
        "`32-true`, `bf16-mixed` or `16-mixed`; on a CPU the last one is `bf16-mixed` too",
    )
    accumulate_grad_batches: int = setting(1, at_least(1), "batches per optimizer step")
    gradient_clip_val: Optional[float] = setting(
        1.0, or_null(at_least(0)), "largest norm of the gradients; null or 0: no limit"
    )
    val_check_interval: Any = setting(
        None, _INTERVAL, "training batches between validations, or a share of an epoch"
    )
    check_val_every_n_epoch: Optional[int] = setting(
        1, or_null(at_least(1)), "epochs between validations; null: count batches across epochs"
    )
    limit_train_batches: Any = setting(
        None, _limit(1), "training batches per epoch, or a share of them"
    )
    limit_val_batches: Any = setting(
        None, _limit(0), "validation batches per validation, or a share of them"
    )
    log_every_n_steps: int = setting(10, at_least(1), "steps between rows of the loggers")
    num_sanity_val_steps: int = setting(
        2, at_least(-1), "validation batches tried out before training"
    )
    enable_progress_bar: bool = setting(True, ANY_VALUE, "show a progress bar")
    deterministic: Any = setting(
        None,
        _DETERMINISTIC,
        "true: deterministic algorithms alone; `warn`: where there are any; null: true on a CPU, "
        "false elsewhere",
    )
    fast_dev_run: Any = setting(
        False, _FAST_DEV_RUN, "true: one batch of each stage, without loggers"
    )
    validate_first: bool = setting(
        False, ANY_VALUE, "validate the starting weights before training, as a baseline"
    )
    val_prompts: Optional[List[str]] = setting(  # noqa: UP006
        None,
        _VAL_PROMPTS,
        "what validation prompts with: a list of some of `mask`, `bbox` and `point`; `val/iou` is "
        "that of the first, `val/iou@<type>` that of each; null: `model.prompt_type`, and of "
        "`mixed` all three",
    )
    val_prompts_every: Optional[int] = setting(
        None,
        or_null(at_least(1)),
        "every n-th validation, and that after the last step, is under all of `val_prompts`, the "
        "others under the first; null: 1, and 4 of `mixed` prompts without `val_prompts`",
    )
    early_stopping_patience: Optional[int] = setting(
        None,
        or_null(at_least(1)),
        "stop after this many validations without a better `val/iou`; null: never",
    )
    checkpoint_every_n_steps: Optional[int] = setting(
        None,
        or_null(at_least(1)),
        "write `last.ckpt` every n optimizer steps as well as after every validation; null: after "
        "validation only",
    )
    on_out_of_memory: str = setting(
        "end",
        one_of("end", "skip"),
        "when a training step runs out of memory: `end` the run, or `skip` the step, its gradients "
        "with it (one process only)",
    )
    max_skipped_in_a_row: int = setting(
        5, at_least(1), "`on_out_of_memory=skip`: one more skipped batch in a row ends the run"
    )
    ema_decay: Optional[float] = setting(
        None,
        or_null(within("[0, 1)")),
        "validate and export an exponential moving average of the weights with this decay, often "
        "0.999; null: the weights themselves",
    )

    def __post_init__(self) -> None:
        """Check the settings and those that depend on each other."""
        super().__post_init__()
        if self.max_steps == -1 and self.max_epochs in (None, -1):
            raise UserError("set trainer.max_steps or trainer.max_epochs: neither limits training")
        if self.check_val_every_n_epoch is None and isinstance(self.val_check_interval, float):
            raise UserError(
                f"trainer.val_check_interval={self.val_check_interval} is a share of an epoch and "
                "needs trainer.check_val_every_n_epoch=1"
            )
        counts_batches = isinstance(self.val_check_interval, int)
        if counts_batches and self.val_check_interval < self.accumulate_grad_batches:
            raise UserError(
                f"trainer.val_check_interval={self.val_check_interval} validates before a step is "
                f"complete: expected at least {self.accumulate_grad_batches} batches, which "
                "trainer.accumulate_grad_batches makes one step"
            )
        if self.early_stopping_patience is not None and self.limit_val_batches == 0:
            raise UserError(
                f"trainer.early_stopping_patience={self.early_stopping_patience} needs validation: "
                "set trainer.limit_val_batches=null"
            )


@dataclass
class SwanLabConfig(Section):
    """Arguments of ``SwanLabLogger`` under their own names."""

    prefix: ClassVar[str] = "swanlab."

    project: str = setting("sam2-finetune", _name(100, "-_.+"), "project that the run belongs to")
    workspace: Optional[str] = setting(
        None, or_null(_name(25, "-_")), "workspace of the project; null: your own"
    )
    experiment_name: Optional[str] = setting(
        None,
        or_null(_text(512)),
        "name of the run; null: the last two folders of the run directory",
    )
    description: Optional[str] = setting(None, or_null(_text(1024)), "shown beside the name")
    log_dir: str = setting("swanlog", A_PATH, "folder of the files of `mode=local`")
    mode: str = setting(
        "local",
        one_of("local", "online", "offline", "disabled"),
        "`local` (files under `log_dir`, shown by `make dashboard`), `online` (needs an API key), "
        "`offline` or `disabled`",
    )
    tags: Optional[List[str]] = setting(None, _TAGS, "labels of the run")  # noqa: UP006
    id: Optional[str] = setting(None, or_null(_FILE_NAME), "id of an earlier run to go on with")
    start_timeout_s: float = setting(
        60.0, greater_than(0), "seconds that starting the run may take before it is given up"
    )
    finish_timeout_s: float = setting(
        60.0, greater_than(0), "seconds that closing the run may take before it is given up"
    )


@dataclass
class VisualizationsConfig(Section):
    """When sheets are drawn and what they show.

    With several devices ``pinned_clips`` and ``worst_clips`` are of rank zero's share. Clips are
    looked at for ``worst_clips`` while less than half of ``max_overhead`` is spent.
    """

    prefix: ClassVar[str] = "visualizations."

    enabled: bool = setting(False, TRUE_OR_FALSE, "draw at all")
    every_n_steps: int = setting(
        200,
        whole(at_least(1)),
        "training: every n optimizer steps; validation: the first batch and every n-th batch after "
        "it",
    )
    max_frames: int = setting(4, whole(at_least(1)), "rows of a sheet")
    max_videos: int = setting(1, whole(at_least(1)), "clips per event, the first ones of the batch")
    frame_stride: int = setting(1, whole(at_least(1)), "draw every n-th frame")
    num_categories: Optional[int] = setting(
        None,
        or_null(whole(at_least(1))),
        "categories drawn; null falls back to `data.num_categories`, then to the number of objects "
        "in the video",
    )
    panel_size: int = setting(
        256,
        whole(between(64, 1024)),
        "longest side of a panel in pixels; larger frames are reduced",
    )
    aspect: str = setting(
        "original",
        one_of("original", "model"),
        "`original`: panels have the aspect of the video; `model`: that of the model's frames",
    )
    zoom: str = setting(
        "auto",
        one_of("auto", "off"),
        "`auto`: where all objects of a clip are small and near each other, panels show the part "
        "of the frames that holds them; `off`: always the whole frames",
    )
    pinned_clips: int = setting(
        1,
        whole(at_least(0)),
        "first clips of the validation set, drawn at every validation: the step slider shows "
        "learning",
    )
    worst_clips: int = setting(
        0,
        whole(at_least(0)),
        "worst clips of every validation, drawn after it under `val/worst`",
    )
    worst_by: str = setting(
        "iou",
        one_of("iou", *FAILURES),
        "what makes a clip one of the worst: the lowest mean IoU, or the most frames with that "
        "failure (`val/failures/<kind>`)",
    )
    animation: bool = setting(
        False,
        TRUE_OR_FALSE,
        "validation clips as GIFs too (SwanLab only, up to 10 MiB each)",
    )
    max_pending: int = setting(
        2,
        whole(at_least(1)),
        "snapshots that may wait to be drawn; further ones are dropped and counted",
    )
    max_overhead: float = setting(
        0.02,
        number(within("(0, 1]")),
        "share of wall time that pictures may block training; events are skipped while the share "
        "is above this (checked once 0.25 s have been spent)",
    )
    flush_timeout_s: float = setting(
        30.0,
        number(greater_than(0)),
        "seconds that the end of training waits for pictures still to be drawn",
    )
    strict: bool = setting(
        False,
        TRUE_OR_FALSE,
        "raise what would be a warning of the pictures, for tests and for those who write a module "
        "of their own; with `run_book=false`, it ends a run before training when no logger takes "
        "pictures",
    )
    run_book: bool = setting(
        True,
        TRUE_OR_FALSE,
        "store what is drawn under `pictures/` in the run directory, and write `run.html`",
    )
    run_book_frames: int = setting(
        32,
        whole(at_least(1)),
        "frames of a pinned clip that the run book keeps, those of its sheet among them",
    )
    run_book_mb: float = setting(
        200.0,
        number(greater_than(0)),
        "how large `pictures/` may become: clips of training are thinned first, pinned ones last",
    )
    run_dir: Optional[str] = setting(
        None,
        A_PATH,
        "where the run book goes; null is the run directory in `train.py`, elsewhere the logger's "
        "`log_dir`",
    )


@dataclass
class ExportConfig(Section):
    """What the end of a run writes to ``weights/``."""

    prefix: ClassVar[str] = "export."

    formats: List[str] = setting(  # noqa: UP006
        ["meta"],
        Rule(
            "a list of meta and hf",
            lambda value: len(value) > 0 and set(value) <= {"meta", "hf"},
        ),
        "`meta` (a .pt file for Meta's predictor), `hf` (a folder for Hugging Face's "
        "`Sam2VideoModel`), or both",
    )


@dataclass
class Config(Section):
    """The whole configuration of a run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    swanlab: SwanLabConfig = field(default_factory=SwanLabConfig)
    visualizations: VisualizationsConfig = field(default_factory=VisualizationsConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    seed: int = setting(
        0, between(0, 2**32 - 1), "seeds weights, data order, synthetic clips and augmentation"
    )
    ckpt_path: Optional[str] = setting(None, A_PATH, "Lightning checkpoint to resume from")
    logger: Any = setting(
        "swanlab",
        _LOGGER_NAMES,
        "`swanlab`, `wandb`, `tensorboard`, `csv`, a list of them, or null",
    )

    def __post_init__(self) -> None:
        """Check the settings and those of different sections that depend on each other."""
        super().__post_init__()
        self.logger = [self.logger] if isinstance(self.logger, str) else list(self.logger or [])
        for name in self.logger:
            one_of(*LOGGERS).check("logger", name)
        require(len({*self.logger}) == len(self.logger), "logger", self.logger, "names that differ")
        for prefix, data in sections_of(self.data):
            self._leave_a_frame_to_track(prefix, data)
        require(
            "hf" not in self.export.formats or self.model.architecture != "tiny",
            "export.formats",
            self.export.formats,
            "meta alone with model=tiny, which Hugging Face does not have",
        )

    def _leave_a_frame_to_track(self, prefix: str, data: DataConfig) -> None:
        if data.num_frames == 1:
            return  # SAM 2 prompts and corrects the one frame there is, whatever the settings say
        least, model = least_frames(self.model), self.model
        require(
            least["num_frames_to_correct"] <= data.num_frames,
            "model.num_frames_to_correct",
            model.num_frames_to_correct,
            f"at most {prefix}num_frames ({data.num_frames})",
        )
        most = data.num_frames - least["num_init_cond_frames"] + model.num_init_cond_frames
        require(
            model.num_init_cond_frames <= most,
            "model.num_init_cond_frames",
            model.num_init_cond_frames,
            f"at most {most} with {prefix}num_frames={data.num_frames} and "
            f"model.prompt_type={model.prompt_type}: at least one frame must be left to track",
        )


def least_frames(model: ModelConfig) -> dict[str, int]:
    """Return how long a training clip of several frames must be, by the setting that asks for it.

    Masks are not corrected. Of frames that all have mask prompts nothing depends on the weights.
    """
    corrects, masks = model.prompt_type != "mask", model.prompt_type in ("mask", "mixed")
    return {
        "num_frames_to_correct": model.num_frames_to_correct if corrects else 1,
        "num_init_cond_frames": model.num_init_cond_frames + masks,
    }


# What every stored configuration has; later versions may add sections.
_FIRST_SECTIONS = (
    "model", "data", "loss", "optimizer", "scheduler", "trainer", "swanlab", "visualizations",
)  # fmt: skip


def is_config(stored: Any) -> bool:
    """Return whether something stored has the sections of this program's settings.

    Other programs keep ``config.yaml`` and ``config`` too, some with a section of the same name.
    """
    return isinstance(stored, Mapping) and all(
        isinstance(stored.get(name), Mapping) for name in _FIRST_SECTIONS
    )


def config_of(stored: Mapping[str, Any]) -> Config:
    """Return the configuration that a checkpoint stores as plain dictionaries.

    Args:
        stored: What ``dataclasses.asdict`` made of a `Config`.

    Raises:
        UserError: It is not one that this version of the program knows.
    """
    try:
        return _section_of(Config, stored)
    except TypeError as error:
        raise UserError(f"the stored configuration is not of this version: {error}") from error


def model_config_of(stored: Mapping[str, Any]) -> ModelConfig:
    """Return the model section of a stored configuration; see `config_of`.

    Raises:
        TypeError: It has a setting that this version does not know.
        UserError: A setting has a value that makes no sense.
    """
    return _section_of(ModelConfig, stored)


def _section_of(section: type[Section], stored: Mapping[str, Any]) -> Any:
    values = dict(stored)
    for item in dataclasses.fields(section):
        if item.name not in values or not isinstance(item.type, type):
            continue
        if issubclass(item.type, Section):
            found, name = values[item.name], section.prefix + item.name
            require(isinstance(found, Mapping), name, found, "a mapping of settings")
            values[item.name] = _section_of(item.type, found)
    return section(**values)


def register_schema(name: str = "schema", schema: type[Config] = Config) -> None:
    """Make a program's settings known to Hydra under the name that its file begins with.

    Args:
        name: The first entry of the ``defaults`` of the file in ``configs/``.
        schema: `Config`, or what a program adds to it.
    """
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name=name, node=schema)


def to_config(cfg: "DictConfig") -> Config:
    """Turn a composed configuration into checked dataclasses.

    Args:
        cfg: What Hydra composed.

    Returns:
        The configuration as plain dataclasses.

    Raises:
        UserError: A field has a value that makes no sense; the message names the field, the value
            and what is allowed.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        OmegaConf.resolve(cfg)
        missing = sorted(OmegaConf.missing_keys(cfg))
        if missing:
            raise UserError(f"{' and '.join(missing)} must be set: expected {missing[0]}=...")
        config = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise UserError(in_one_sentence(error)) from error
    assert isinstance(config, Config)
    return config


def in_one_sentence(error: Exception) -> str:
    """Return what Hydra or OmegaConf says of an override: its first lines, with what they mean."""
    said = _first_line(error).removeprefix("Error merging override ")
    override = getattr(error, "override", None)
    if override is not None:  # of Hydra's grammar
        said = f"{override}: {said.split(f'override: {override} : ')[-1]}"
    elif "--multirun" in str(error):
        said += "; values to sweep over need --multirun, a list needs brackets"
    key = getattr(error, "full_key", None)
    if key and key not in said:
        said = f"{key}: {said}"
    return said if error.__cause__ is None else f"{said}: {_first_line(error.__cause__)}"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def explain_typos(overrides: list[str], schema: type[Config] = Config) -> None:
    """Name the nearest valid name when an override names no field or file that exists.

    Args:
        overrides: The command line; options and what Hydra itself checks are left alone.
        schema: The program's settings.

    Raises:
        UserError: There is no such field or file.
    """
    groups = _group_files()
    of_sources = {*_field_names(SourceConfig)}
    names = {*_field_names(schema), *groups}
    for override in overrides:
        typed, equals, value = override.partition("=")
        key = typed.lstrip("+~")
        if key.startswith(("-", "hydra.", "hydra/")) or (typed[:1] == "~" and key in names):
            continue
        if not equals:
            raise UserError(f"{override}: expected NAME=VALUE")
        of_source = field_of_source(key)
        if of_source in of_sources:
            continue
        if key not in names:
            known = names if of_source is None else of_sources
            raise _unknown(key or override, of_source or key, sorted(known))
        if key in groups and "(" not in value:  # otherwise a field, or a sweep that Hydra expands
            _explain_choices(key, value.split(","), groups[key])


def _unknown(said: str, key: str, names: list[str]) -> UserError:
    """Return the error for a setting that nobody has, with the one that may be meant."""
    near = nearest(key, names, cutoff=0.5)
    hint = f"; did you mean {near}?" if near else "; core/config.py lists all settings"
    return UserError(f"unknown setting {said}{hint}")


def _group_files() -> dict[str, list[str]]:
    """Return the names of the files of each folder in `configs/`."""
    return {
        folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
        for folder in CONFIG_DIR.iterdir()
        if folder.is_dir()
    }


def _explain_choices(group: str, choices: list[str], files: list[str]) -> None:
    for choice in choices:
        if choice in files:
            continue
        if choice == "null":
            expected = f"expected one of {', '.join(files)}; ~{group} leaves it out"
            raise UserError(f"{group}=null: {expected}")
        near = nearest(choice, files, cutoff=0.5)
        hint = f"; did you mean {group}={near}?" if near else ""
        raise UserError(
            f"{group}={choice}: there is no configs/{group}/{choice}.yaml; choose one of "
            f"{', '.join(files)}{hint}"
        )


def _field_names(section: type[Section], prefix: str = "") -> list[str]:
    names = []
    for item in dataclasses.fields(section):
        names.append(prefix + item.name)
        if isinstance(item.type, type) and issubclass(item.type, Section):
            names += _field_names(item.type, f"{prefix}{item.name}.")
    return names
