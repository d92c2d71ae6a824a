"""The command line of β-CLIP. It uses the library `beta_clip_hf`; the library does not know of it."""
