"""The core: flat files that import each other as `.name`, for `save_pretrained` copies them beside the weights."""
