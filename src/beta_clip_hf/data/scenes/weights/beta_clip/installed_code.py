"""The classes of the installed package, for `trust_remote_code=True`."""

from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel, BetaCLIPProcessor


__all__ = ["BetaCLIPConfig", "BetaCLIPModel", "BetaCLIPProcessor"]
