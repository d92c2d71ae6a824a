"""The page of the Space, which takes predictions and references as JSON."""

import json

import gradio
from hard_negative_accuracy import HardNegativeAccuracy


def compute(predictions: str, references: str) -> dict[str, float]:
    """Computes the metric from JSON lists of scores of groups of texts, and of the index of the true text of each."""
    metric = HardNegativeAccuracy(keep_in_memory=True)
    return metric.compute(predictions=json.loads(predictions), references=json.loads(references))


inputs = [gradio.Textbox(label="predictions"), gradio.Textbox(label="references")]
example = ["[[0.9, 0.1, 0.2], [0.3, 0.3]]", "[0, 0]"]
page = gradio.Interface(compute, inputs, gradio.JSON(), title="Hard negative accuracy", examples=[example])

if __name__ == "__main__":
    page.launch()
