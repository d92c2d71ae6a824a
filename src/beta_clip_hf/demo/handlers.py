"""
The functions behind the buttons of the demo's page.

`views.py` asks the model, and `markup.py` writes the answers as HTML. This file imports Gradio, which takes seconds:
import it late.
"""

from collections.abc import Callable
from functools import wraps
from html import escape
from inspect import Parameter, Signature, signature
from typing import Any

import gradio as gr
from PIL import Image

from . import markup, views
from .collection import Collection
from .limits import Limits, RateLimit
from .quiet_log import log_failure


MEAN_OF_HEADS = "mean of the heads"
"""The choice among the heads that stands for all of them."""


class Handlers:
    """
    Holds the functions behind the buttons.

    Args:
        collection: The images, with the model.
        limits: What a visitor may send.
        rate: How often a visitor may ask.
    """

    def __init__(self, collection: Collection, limits: Limits, rate: RateLimit) -> None:
        self.collection = collection
        self.limits = limits
        self.rate = rate
        self.index = collection.index
        self.model = self.index.embedder.model
        self.processor = self.index.embedder.processor

    def search(self, text: str, top: float, rerank: bool) -> tuple[Any, ...]:
        """Returns the pictures that were found, the result to remember, and the details of the first hit."""
        text = self.limits.text(text, "The description")
        found = views.find(self.index, text, int(top), rerank)
        if not found.hits:
            raise ValueError("Nothing was found: the collection is empty.")
        return views.thumbnails(self.index, found), found, markup.hit_html(self.index, found, 0)

    def pick_hit(self, found: views.Found | None, event: gr.SelectData) -> str:
        """Returns the details of another hit."""
        if found is None:
            return ""
        return markup.hit_html(self.index, found, int(event.index))

    def explore(self, path: str | None, caption: str, head: str) -> tuple[Any, ...]:
        """Returns the result to remember, its texts to choose from, and the heat map of the first phrase."""
        caption = self.limits.text(caption, "The caption")
        image = self.limits.image(path)
        seen = views.explore(self.model, self.processor, image, caption)
        first = markup.first_choice(seen.texts)
        choices = gr.Radio(choices=markup.text_choices(seen.texts), value=first, visible=True)
        return seen, choices, self.pick_text(seen, first, head)

    def explore_example(self, path: str | None, caption: str, head: str) -> tuple[Any, ...]:
        """Returns what `explore` returns. An image without a caption waits for one."""
        if caption:
            return self.explore(path, caption, head)
        missing = markup.note_html("A caption is needed: type one, then choose Look.")
        return None, gr.Radio(visible=False), missing

    def pick_text(self, seen: views.Seen | None, choice: str | None, head: str) -> str:
        """Returns the heat map of another text or of another head."""
        if seen is None or choice is None:
            return ""
        return markup.text_html(seen, markup.place_of(choice), _head_number(head))

    def compare(self, path: str | None, first: str, second: str, head: str) -> tuple[Any, ...]:
        """Returns the result to remember, and the comparison as HTML."""
        first = self.limits.text(first, "Caption A")
        second = self.limits.text(second, "Caption B")
        image = self.limits.image(path)
        compared = views.compare(self.model, self.processor, image, first, second)
        return compared, self.pick_head(compared, head)

    def compare_example(self, path: str | None, first: str, second: str, head: str) -> tuple[Any, ...]:
        """Returns what `compare` returns. An image without two captions waits for them."""
        if first and second:
            return self.compare(path, first, second, head)
        return None, markup.note_html("Two captions are needed: type what is missing, then choose Compare.")

    def pick_head(self, compared: views.Comparison | None, head: str) -> str:
        """Returns the same comparison with the heat maps of another head."""
        if compared is None:
            return ""
        return markup.comparison_html(compared, _head_number(head))

    def next_with_caption(self, number: int) -> tuple[Image.Image, str, int]:
        """Returns an image of the collection, its caption, and the number of the next image."""
        example = self.collection.example(number)
        return example.image, example.caption, number + 1

    def next_with_two_captions(self, number: int) -> tuple[Image.Image, str, str, int]:
        """Returns an image of the collection, two captions, and the number of the next image."""
        example = self.collection.example(number)
        return example.image, example.caption, example.other, number + 1

    def answering(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        """
        Wraps a handler for Gradio, which passes the request as well.

        The wrapper counts the questions of the client. It shows an error of the visitor as a sentence, and writes any
        other error to the log, on one line.
        """

        @wraps(handler)
        def answer(request: gr.Request, *inputs: Any) -> Any:
            try:
                client = request.client.host if request.client else "unknown"
                self.rate.check(client)
                return handler(*inputs)
            except (ValueError, ImportError) as error:
                sentence = " ".join(str(error).split())
            except Exception as error:
                log_failure(handler.__name__, error)
                sentence = "This has failed, for a reason that only the log of the demo knows."
            # Gradio shows the message as HTML. It stays until it is closed: without it only "Error" would be left.
            raise gr.Error(escape(sentence), duration=None, print_exception=False)

        # Gradio finds out from the types of the parameters what to pass.
        request = Parameter("request", Parameter.POSITIONAL_OR_KEYWORD, annotation=gr.Request)
        parameters = signature(handler).parameters.values()
        answer.__signature__ = Signature([request, *parameters])  # type: ignore[attr-defined]
        answer.__annotations__ = {"request": gr.Request, **handler.__annotations__}
        return answer


def _head_number(choice: str) -> int | None:
    """Returns 3 for "head 3", and `None` for the mean."""
    if choice == MEAN_OF_HEADS:
        return None
    return int(choice.rpartition(" ")[2])
