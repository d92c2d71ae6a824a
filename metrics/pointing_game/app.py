"""The page of the Space, which takes predictions and references as JSON."""

import json

import gradio
from pointing_game import PointingGame


def compute(predictions: str, references: str) -> dict[str, float]:
    """Computes the metric from JSON lists of heat maps, and of the boxes of each phrase."""
    metric = PointingGame(keep_in_memory=True)
    return metric.compute(predictions=json.loads(predictions), references=json.loads(references))


inputs = [gradio.Textbox(label="predictions"), gradio.Textbox(label="references")]
example = ["[[[0.1, 0.7], [0.1, 0.1]]]", "[[[0.5, 0.0, 1.0, 0.5]]]"]
page = gradio.Interface(compute, inputs, gradio.JSON(), title="Pointing game", examples=[example])

if __name__ == "__main__":
    page.launch()
