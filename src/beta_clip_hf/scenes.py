"""Generated scenes, and the small models that have learnt from them: the short name of `beta_clip_hf.data.scenes`."""

from .data.scenes import SceneDataset, default_model, pretrained, scene_captions


__all__ = ["SceneDataset", "default_model", "pretrained", "scene_captions"]
