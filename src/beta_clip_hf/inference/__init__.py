"""Everything that asks a model: loading it, embedding images and texts, in one process or several."""
