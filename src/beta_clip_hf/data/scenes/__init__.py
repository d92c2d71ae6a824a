"""Generated scenes: pictures of coloured shapes with captions, phrases, boxes and hard negatives. No download."""

from .dataset import SceneDataset, scene_captions


__all__ = ["SceneDataset", "scene_captions"]
