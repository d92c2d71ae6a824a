"""
The page of the demo: three tabs in Gradio, and what their buttons do. All that is computed is in `views.py`.

Gradio is imported at the top: import this file late.
"""

import logging
from collections.abc import Callable
from functools import wraps
from html import escape
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from PIL import Image
from starlette.middleware import Middleware

from . import views
from .collection import Collection
from .limits import Guard, Limits, RateLimit, check_port


logger = logging.getLogger(__name__)

# Of what the model has to do: one question at a time, the others wait; and no programming interface.
MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
WAITING = 32  # questions at most; more are told to come back
SESSIONS = 100  # whose results are remembered
MEAN = "mean of the heads"
KEPT = 3600  # seconds, of uploads and results
FONT = ["system-ui", "sans-serif"]  # of the visitor's system: none is loaded
STYLE = Path(__file__).with_name("style.css")
HEAD = "Attention head"


class Handlers:
    """
    What the buttons do.

    Args:
        collection: What is searched, with its model.
        limits: Of what a visitor may send.
        rate: How often.
    """

    def __init__(self, collection: Collection, limits: Limits, rate: RateLimit) -> None:
        self.collection, self.limits, self.rate, self.index = collection, limits, rate, collection.index
        self.model, self.processor = self.index.embedder.model, self.index.embedder.processor

    def search(self, text: str, top: float, rerank: bool) -> tuple[Any, ...]:
        """Pictures, the result to remember, and the first hit from near."""
        found = views.find(self.index, self.limits.text(text, "The description"), int(top), rerank)
        if not found.hits:
            raise ValueError("Nothing was found: the collection is empty.")
        return views.thumbnails(self.index, found), found, views.hit_html(self.index, found, 0)

    def pick_hit(self, found: views.Found | None, event: gr.SelectData) -> str:
        """Another hit from near."""
        return "" if found is None else views.hit_html(self.index, found, int(event.index))

    def explore(self, path: str | None, caption: str, head: str) -> tuple[Any, ...]:
        """The result to remember, its texts to choose from, and the first phrase's heat map."""
        caption = self.limits.text(caption, "The caption")
        seen = views.explore(self.model, self.processor, self.limits.image(path), caption)
        first = views.first_choice(seen.texts)
        choices = gr.Radio(choices=views.text_choices(seen.texts), value=first, visible=True)
        return seen, choices, views.text_html(seen, views.place_of(first), _head(head))

    def explore_example(self, path: str | None, caption: str, head: str) -> tuple[Any, ...]:
        """As `explore`; an image without a caption waits for one."""
        if not caption:
            missing = views.note_html("A caption is needed: type one, then choose Look.")
            return None, gr.Radio(visible=False), missing
        return self.explore(path, caption, head)

    def pick_text(self, seen: views.Seen | None, choice: str | None, head: str) -> str:
        """The heat map of another text, or of another head."""
        if seen is None or choice is None:
            return ""
        return views.text_html(seen, views.place_of(choice), _head(head))

    def compare(self, path: str | None, first: str, second: str, head: str) -> tuple[Any, ...]:
        """The result to remember, and what is shown of it."""
        texts = [self.limits.text(text, f"Caption {name}") for name, text in (("A", first), ("B", second))]
        compared = views.compare(self.model, self.processor, self.limits.image(path), *texts)
        return compared, views.comparison_html(compared, _head(head))

    def compare_example(self, path: str | None, first: str, second: str, head: str) -> tuple[Any, ...]:
        """As `compare`; an image without two captions waits for them."""
        if not (first and second):
            return None, views.note_html("Two captions are needed: type what is missing, then choose Compare.")
        return self.compare(path, first, second, head)

    def pick_head(self, compared: views.Comparison | None, head: str) -> str:
        """The same comparison by another head."""
        return "" if compared is None else views.comparison_html(compared, _head(head))

    def example_of_one(self, number: int) -> tuple[Image.Image, str, int]:
        """The next image of the collection with its caption."""
        example = self.collection.example(number)
        return example.image, example.caption, number + 1

    def example_of_two(self, number: int) -> tuple[Image.Image, str, str, int]:
        """The next image of the collection with two captions."""
        example = self.collection.example(number)
        return example.image, example.caption, example.other, number + 1

    def answering(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        """
        A handler for Gradio, which passes it the request too: it counts the client's questions, and shows errors as a
        sentence, as text. What is no fault of the visitor is told to the log.
        """

        @wraps(handler)
        def answer(request: gr.Request, *inputs: Any) -> Any:
            try:
                self.rate.check(request.client.host if request.client else "unknown")
                return handler(*inputs)
            except (ValueError, ImportError) as error:
                sentence = " ".join(str(error).split())
            except Exception:
                logger.exception("%s has failed", handler.__name__)
                sentence = "This has failed, for a reason that only the log of the demo knows."
            raise gr.Error(escape(sentence), print_exception=False)

        # Gradio finds out what to pass by the parameters' types.
        own = Parameter("request", Parameter.POSITIONAL_OR_KEYWORD, annotation=gr.Request)
        parameters = signature(handler).parameters.values()
        answer.__signature__ = Signature([own, *parameters])  # type: ignore[attr-defined]
        answer.__annotations__ = {"request": gr.Request, **handler.__annotations__}
        return answer


class Page(NamedTuple):
    """What [`build`] makes and [`launch`] serves."""

    blocks: gr.Blocks
    limits: Limits
    rate: RateLimit


def build(collection: Collection, limits: Limits | None = None) -> Page:
    """
    The page, not yet served.

    Args:
        collection: What is searched, with its model.
        limits: Of what a visitor may send.
    """
    limits = limits or Limits()
    rate = RateLimit(limits.per_minute)
    handlers = Handlers(collection, limits, rate)
    pooler = getattr(handlers.model, "pooler", None)
    heads = [MEAN, *(f"head {head}" for head in range(pooler.num_heads if pooler is not None else 0))]
    with gr.Blocks(title="β-CLIP demo", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as blocks:
        gr.HTML(_heading(collection), padding=False)
        with gr.Tabs():
            with gr.Tab("Search"):
                _search_tab(handlers)
            with gr.Tab("What does each phrase see?"):
                _explore_tab(handlers, heads)
            with gr.Tab("Compare two captions"):
                _compare_tab(handlers, heads)
    blocks.queue(max_size=WAITING, api_open=False)
    return Page(blocks, limits, rate)


def launch(page: Page, *, host: str = "127.0.0.1", port: int | None = None, share: bool = False) -> str:
    """
    Serves the page from threads of its own, until `page.blocks.close()`.

    Args:
        page: From [`build`].
        host: The address to listen on; the default can be reached from this machine only.
        port: By default the first free one from 7860.
        share: Whether Gradio's servers make it public, through a tunnel.

    Returns:
        Where it is.

    Raises:
        ValueError: where the port is taken, or none.
    """
    check_port(port)
    theme = gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=FONT, font_mono=["monospace"])
    for name in (
        "body_text_color_subdued",
        "block_info_text_color",
        "block_title_text_color",
        "block_label_text_color",
    ):
        theme.set(**{name: "*neutral_600", f"{name}_dark": "*neutral_300"})  # theirs are too pale to read
    theme.set(button_primary_background_fill_hover="*primary_700")
    try:
        _, local, public = page.blocks.launch(
            server_name=host,
            server_port=port,
            share=share,
            max_file_size=round(page.limits.upload_mib * 2**20),
            theme=theme,
            css_paths=STYLE,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            mcp_server=False,
            pwa=False,
            ssr_mode=False,
            state_session_capacity=SESSIONS,
            app_kwargs={"middleware": [Middleware(Guard, limits=page.limits, rate=page.rate)]},
            prevent_thread_lock=True,
            quiet=True,
        )
    except OSError as error:
        taken = f"{port} is not" if port else "none from 7860 on is"
        raise ValueError(f"port must be free on {host}, but {taken}: give another with --port") from error
    return public or local


def _search_tab(handlers: Handlers) -> None:
    found = gr.State(time_to_live=KEPT)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=280):
            text = gr.Textbox(label="Description", lines=3, max_length=handlers.limits.characters, elem_id="query")
            top = gr.Slider(4, 24, value=8, step=4, label="How many images")
            rerank = gr.Checkbox(
                label="Order the best by how each text sees them",
                info="Text-conditioned re-ranking: better or worse than CLS, depending on the model.",
                visible=handlers.index.embedder.has_pooler,
            )
            button = gr.Button("Search", variant="primary", elem_id="search")
            if captions := handlers.collection.captions():
                gr.Examples([[caption] for caption in captions], [text], label="Try one of these")
        with gr.Column(scale=5):
            gallery = gr.Gallery(
                label="Found", show_label=False,
                columns=4, height="auto", allow_preview=False, object_fit="contain", format="png", buttons=[],
                interactive=False, elem_id="found",
            )  # fmt: skip
            near = gr.HTML(elem_id="near", padding=False)
    outputs = [gallery, found, near]
    button.click(handlers.answering(handlers.search), [text, top, rerank], outputs, **MODEL)
    text.submit(handlers.answering(handlers.search), [text, top, rerank], outputs, **MODEL)
    gallery.select(handlers.answering(handlers.pick_hit), [found], [near], **MODEL)


def _explore_tab(handlers: Handlers, heads: list[str]) -> None:
    seen, number = gr.State(time_to_live=KEPT), gr.State(0)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=280):
            image = _image("explore-image", handlers.limits)
            caption = gr.Textbox(
                label="Caption", lines=4, max_length=handlers.limits.characters, elem_id="explore-caption"
            )
            with gr.Row():
                example = gr.Button("Next example", min_width=150, elem_id="explore-example")
                button = gr.Button("Look", variant="primary", min_width=80, elem_id="look")
        with gr.Column(scale=5):
            choice = gr.Radio(
                label="The caption, its sentences and their phrases: choose one to see where it looks",
                visible=False, elem_id="texts",
            )  # fmt: skip
            head = gr.Dropdown(heads, value=MEAN, label=HEAD, visible=len(heads) > 1, elem_id="explore-head")
            shown = gr.HTML(elem_id="shown", padding=False)
    outputs = [seen, choice, shown]
    taken = example.click(
        handlers.answering(handlers.example_of_one),
        [number],
        [image, caption, number],
        **MODEL,
    )
    for event, handler in ((taken.success, handlers.explore_example), (button.click, handlers.explore)):
        event(handlers.answering(handler), [image, caption, head], outputs, **MODEL)
    for event in (choice.input, head.input):
        event(handlers.answering(handlers.pick_text), [seen, choice, head], [shown], **MODEL)


def _compare_tab(handlers: Handlers, heads: list[str]) -> None:
    compared, number = gr.State(time_to_live=KEPT), gr.State(0)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=280):
            image = _image("compare-image", handlers.limits)
            first = gr.Textbox(label="Caption A", lines=3, max_length=handlers.limits.characters, elem_id="caption-a")
            second = gr.Textbox(label="Caption B", lines=3, max_length=handlers.limits.characters, elem_id="caption-b")
            with gr.Row():
                example = gr.Button("Next example", min_width=150, elem_id="compare-example")
                button = gr.Button("Compare", variant="primary", min_width=80, elem_id="compare")
        with gr.Column(scale=5):
            head = gr.Dropdown(heads, value=MEAN, label=HEAD, visible=len(heads) > 1, elem_id="compare-head")
            shown = gr.HTML(elem_id="compared", padding=False)
    outputs = [image, first, second, number]
    taken = example.click(handlers.answering(handlers.example_of_two), [number], outputs, **MODEL)
    inputs = [image, first, second, head]
    for event, handler in ((taken.success, handlers.compare_example), (button.click, handlers.compare)):
        event(handlers.answering(handler), inputs, [compared, shown], **MODEL)
    head.input(handlers.answering(handlers.pick_head), [compared, head], [shown], **MODEL)


def _image(name: str, limits: Limits) -> gr.Image:
    image = gr.Image(
        label=f"Image, up to {limits.upload_mib:g} MiB", type="filepath", format="png", height=280,
        sources=["upload", "clipboard"], buttons=[], elem_id=name, alt_text="The image that was chosen",
    )  # fmt: skip
    # Gradio would open the file, and fail without words. (A subclass would have it write a .pyi beside this file.)
    image.preprocess = _path_of  # type: ignore[method-assign]
    return image


def _path_of(payload: Any) -> str | None:
    """Of what was uploaded, which `Limits.image` opens."""
    return None if payload is None else payload.path


def _heading(collection: Collection) -> str:
    name = "/".join(Path(collection.index.table.info["model"]).parts[-2:])
    return (
        "<header><h1>β-CLIP</h1><p>A CLIP that shows where each phrase of a caption looks. "
        f"Searched here: {escape(collection.title)}, with the model “{escape(name)}”. In heat maps, grey is no more "
        "attention than evenly spread; dark blue to yellow is more and more.</p></header>"
    )


def _head(choice: str) -> int | None:
    """ "head 3" is 3; the mean is `None`."""
    return None if choice == MEAN else int(choice.rpartition(" ")[2])
