"""Reads weights from ``.pt`` and ``.ckpt`` files of any program, under SAM 2's own names.

Files of Hugging Face are read in ``hugging_face.py``.
"""

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import torch
from torch import Tensor

from ..checks import UserError
from ..files import whole_file

# Entries under which programs save weights, and a parameter that every SAM 2 has.
_ENTRIES = ("model", "state_dict", "model_state_dict", "net", "weights")
PROBE = "image_encoder.trunk.patch_embed.proj.weight"
# The entry of exported files that stands beside ``model``; Meta's loader reads ``model`` alone.
IMAGE_SIZE = "image_size"


class CheckpointError(UserError):
    """A file with weights is missing, unreadable, or does not fit the model."""


def read_checkpoint(path: Path, name: str = "model.checkpoint_path") -> Any:
    """Return the content of a checkpoint file, on the CPU.

    Args:
        path: The file.
        name: What messages call it: the setting that named it.

    Raises:
        CheckpointError: The file is missing, damaged, or holds more than tensors and plain
            containers.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise CheckpointError(f"{name}={path} {what}, expected a .pt or .ckpt file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's message is a page long; this line of it names the class that was refused.
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = "is damaged, is not a checkpoint, or contains Python objects"
        if refused:
            what = f"contains {refused[1]}"
        raise CheckpointError(
            f"{name}={path} {what}, expected tensors and plain containers only: "
            "anything else could run code when it is loaded"
        ) from error
    except Exception as error:
        # A damaged file can fail anywhere in zip, pickle or tensor reading.
        reason = str(error).strip().splitlines()[:1]
        raise CheckpointError(
            f"{name}={path} is damaged or is not a checkpoint: "
            f"{reason[0] if reason else type(error).__name__}"
        ) from error


@dataclass(frozen=True)
class FoundWeights:
    """Where a file holds the weights of a SAM 2.

    Attributes:
        weights: The tensors, by SAM 2's own names.
        entry: The file's entry that holds them; None: the file is a bare state dict.
        prefix: What stands before SAM 2's names in the file.
        note: What else the log is to say of the file.
        image_size: The side of the frames in pixels; None: the file does not tell.
    """

    weights: dict[str, Tensor]
    entry: Optional[str]
    prefix: str
    note: str = ""
    image_size: Optional[int] = None

    def __str__(self) -> str:
        """Say what is unlike a released file and unlike a checkpoint of this program."""
        notes = [self.note] if self.note else []
        if self.entry is None:
            notes.append("a bare state dict")
        elif self.entry not in ("model", "state_dict"):
            notes.append(f"entry `{self.entry}`")
        if self.prefix and (self.entry, self.prefix) != ("state_dict", "model."):
            notes.append(f"names behind `{self.prefix}`")
        return f" ({', '.join(notes)})" if notes else ""


def find_weights(content: Any) -> Optional[FoundWeights]:
    """Return the weights that the content of a file holds, None where it holds none.

    They may stand in an entry or be the content itself, and their names behind a prefix, as
    Lightning, DDP and ``torch.compile`` put there.

    Args:
        content: What `read_checkpoint` returned.

    Raises:
        CheckpointError: Several prefixes lead to weights of a SAM 2.
    """
    if not isinstance(content, dict):
        return None
    entry = next((name for name in _ENTRIES if isinstance(content.get(name), dict)), None)
    weights = content if entry is None else content[entry]
    if not weights or not _are_named_tensors(weights):
        return None
    prefix = _prefix_of(weights)
    # Lightning's checkpoints hold the weights of a whole module, of which SAM 2 is a part.
    kept = {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if entry != "state_dict" or name.startswith(prefix)
    }
    size = content.get(IMAGE_SIZE)
    return FoundWeights(kept, entry, prefix, image_size=size if isinstance(size, int) else None)


def _are_named_tensors(weights: dict[Any, Any]) -> bool:
    return all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    )


def _prefix_of(weights: dict[str, Tensor]) -> str:
    prefixes = [name.removesuffix(PROBE) for name in weights if name.endswith(PROBE)]
    if len(prefixes) > 1:
        raise CheckpointError(
            f"the file holds several sets of weights, behind {', '.join(sorted(prefixes))}; "
            "expected one"
        )
    return prefixes[0] if prefixes else ""


def read_file(path: Path, name: str = "model.checkpoint_path") -> FoundWeights:
    """Return the weights in a ``.pt`` or ``.ckpt`` file; see `read_checkpoint`, `find_weights`.

    Raises:
        CheckpointError: The file is unreadable or holds no weights.
    """
    content = read_checkpoint(path, name)
    try:
        found = find_weights(content)
    except CheckpointError as error:
        raise CheckpointError(f"{name}={path}: {error}") from None
    if found is None:
        holds = type(content).__name__
        if isinstance(content, dict):
            holds = ", ".join(map(str, list(content)[:5])) or "nothing"
        raise CheckpointError(
            f"{name}={path} must hold a `model` entry (.pt), a `state_dict` entry "
            f"(.ckpt) or the weights themselves, found {holds}"
        )
    return found


def write_safetensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a ``.safetensors`` file, whole or not at all, as readable as any other new file.

    Args:
        tensors: On the CPU, contiguous, none sharing memory with another.
        path: The file; its folder is made, an older file is replaced at the end.
        metadata: Kept in the head of the file.
    """
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        partial.touch()
        mode = partial.stat().st_mode
        save_file(dict(tensors), partial, metadata=metadata)
        partial.chmod(mode)  # some versions of safetensors let nobody but the owner read
