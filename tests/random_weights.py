"""A small real SAM 2 that was never trained and finds objects all the same."""

import torch

from core.config import ModelConfig
from core.export import export_weights
from core.model.build import build_model

IMAGE_SIZE = 64


def write_random_weights(folder):
    """Write weights of `tiny` and return the file; they say that every object is there."""
    torch.manual_seed(3)
    config = ModelConfig(image_size=IMAGE_SIZE)
    model = build_model(config)
    # otherwise no object would ever be there, and all masks would be alike
    model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(10)
    path = folder / "random.pt"
    export_weights(model, path, config)
    return path
