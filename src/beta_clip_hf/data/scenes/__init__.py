"""Generated scenes: pictures of coloured shapes with captions, phrases, boxes and hard negatives. No download."""

from .dataset import SceneDataset, scene_captions
from .pretrained import default_model, pretrained


__all__ = ["SceneDataset", "default_model", "pretrained", "scene_captions"]
