"""A base and a model that was fine-tuned from it, as directories."""

import torch


def perturbed(model):
    """Moves every weight a little, as a fine-tuning does."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def saved(model, folder, processor=None):
    """Saves a model, and a processor beside it, and returns the folder."""
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return folder
