"""The page of the Space, which takes predictions and references as JSON."""

import json

import gradio
from recall_at_k import RecallAtK


def compute(predictions: str, references: str) -> dict[str, float]:
    """Computes the metric from JSON lists of scores of queries, and of the indices of their relevant candidates."""
    metric = RecallAtK(keep_in_memory=True)
    return metric.compute(predictions=json.loads(predictions), references=json.loads(references))


inputs = [gradio.Textbox(label="predictions"), gradio.Textbox(label="references")]
example = ["[[0.9, 0.1, 0.3], [0.5, 0.5, 0.1]]", "[[0], [1]]"]
page = gradio.Interface(compute, inputs, gradio.JSON(), title="Recall at k", examples=[example])

if __name__ == "__main__":
    page.launch()
