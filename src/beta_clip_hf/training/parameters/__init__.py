"""Which parameters are trained, and how: names, groups with their own learning rates, LoRA, freezing, the average."""
