"""The command line of β-CLIP. It stands on the library `beta_clip_hf`; nothing in the library knows of it."""
