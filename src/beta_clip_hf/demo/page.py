"""
The page of the demo: three tabs in Gradio.

This file imports Gradio, which takes seconds: import it late.
"""

import os
import socket
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from starlette.middleware import Middleware

from .collection import Collection
from .handlers import MEAN_OF_HEADS, Handlers
from .limits import Guard, Limits, RateLimit, check_port
from .quiet_log import keep_quiet


# The model answers one question at a time, and the others wait. There is no programming interface.
MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
# Questions that may wait. Visitors with more questions are asked to come back.
MAX_WAITING = 32
# Visitors whose last results are remembered.
MAX_SESSIONS = 100
# Seconds for which uploads and results are kept.
KEPT_SECONDS = 3600
# These fonts are those of the visitor's system: none is loaded.
FONT = ["system-ui", "sans-serif"]
STYLE = Path(__file__).with_name("style.css")
# Gradio's colours of these texts are too pale to read.
PALE_TEXTS = (
    "body_text_color_subdued",
    "block_info_text_color",
    "block_title_text_color",
    "block_label_text_color",
)


class Page(NamedTuple):
    """Holds the page that [`build`] makes and [`launch`] serves."""

    blocks: gr.Blocks
    limits: Limits
    rate: RateLimit


def build(collection: Collection, limits: Limits | None = None) -> Page:
    """
    Builds the page without serving it.

    Args:
        collection: The images, with the model.
        limits: What a visitor may send; see [`Limits`] for the default.
    """
    limits = limits or Limits()
    rate = RateLimit(limits.per_minute)
    handlers = Handlers(collection, limits, rate)
    heads = [MEAN_OF_HEADS]
    # Models of other kinds have no pooler.
    pooler = getattr(handlers.model, "pooler", None)
    if pooler is not None:
        heads += [f"head {head}" for head in range(pooler.num_heads)]
    with gr.Blocks(title="β-CLIP demo", analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as blocks:
        gr.HTML(_heading(collection), padding=False)
        with gr.Tabs():
            with gr.Tab("Search"):
                _search_tab(handlers)
            with gr.Tab("What does each phrase see?"):
                _explore_tab(handlers, heads)
            with gr.Tab("Compare two captions"):
                _compare_tab(handlers, heads)
    blocks.queue(max_size=MAX_WAITING, api_open=False)
    return Page(blocks, limits, rate)


def launch(page: Page, *, host: str = "127.0.0.1", port: int | None = None, share: bool = False) -> str:
    """
    Serves the page in threads of its own, until `page.blocks.close()` is called.

    Args:
        page: The page, from [`build`].
        host: Address to listen on. The default can be reached from this machine only.
        port: Port to listen on. The default is the first free one from 7860.
        share: Whether Gradio's servers make the page public, through a tunnel.

    Returns:
        The address of the page.

    Raises:
        ValueError: if the port is taken, or is no port.
    """
    check_port(port)
    keep_quiet()
    try:
        _, local_address, public_address = page.blocks.launch(
            server_name=host,
            server_port=port,
            share=share,
            max_file_size=round(page.limits.upload_mib * 2**20),
            theme=_theme(),
            css_paths=STYLE,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            mcp_server=False,
            pwa=False,
            ssr_mode=False,
            state_session_capacity=MAX_SESSIONS,
            app_kwargs={
                "middleware": [Middleware(Guard, limits=page.limits, rate=page.rate, hosts=_hosts(host, share))]
            },
            # The caller decides how long the page is served.
            prevent_thread_lock=True,
            quiet=True,
        )
    except OSError as error:
        taken = "none from 7860 on is"
        if port:
            taken = f"{port} is not"
        raise ValueError(f"port must be free on {host}, but {taken}: give another with --port") from error
    return public_address or local_address


def _hosts(host: str, share: bool) -> list[str]:
    """Returns the names under which the page may be asked for; `BETA_CLIP_DEMO_HOSTS` adds some, for a proxy."""
    hosts = [host, socket.gethostname(), socket.getfqdn()]
    if share:
        # The tunnel's address.
        hosts.append("*.gradio.live")
    if "SPACE_ID" in os.environ:
        # A Space of the Hub lies behind its proxy.
        hosts.append("*.hf.space")
    return [*hosts, *filter(None, os.environ.get("BETA_CLIP_DEMO_HOSTS", "").split(","))]


def _theme() -> gr.themes.Default:
    """Returns Gradio's theme with fonts of the visitor's system, and with texts that have enough contrast."""
    theme = gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=FONT, font_mono=["monospace"])
    for name in PALE_TEXTS:
        theme.set(**{name: "*neutral_600", f"{name}_dark": "*neutral_300"})
    theme.set(button_primary_background_fill_hover="*primary_700")
    return theme


def _search_tab(handlers: Handlers) -> None:
    """Builds the tab that searches the collection."""
    found = gr.State(time_to_live=KEPT_SECONDS)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=280):
            text = gr.Textbox(label="Description", lines=3, elem_id="query")
            top = gr.Slider(4, 24, value=8, step=4, label="How many images")
            rerank = gr.Checkbox(
                label="Order the best again by their details",
                info="By the hierarchical score (the text, its sentences and its phrases): better or worse than CLS, "
                "depending on the model.",
                visible=handlers.index.embedder.has_pooler,
            )
            button = gr.Button("Search", variant="primary", elem_id="search")
            captions = handlers.collection.captions()
            if captions:
                gr.Examples([[caption] for caption in captions], [text], label="Try one of these")
        with gr.Column(scale=5):
            gallery = gr.Gallery(
                label="Found",
                show_label=False,
                columns=4,
                height="auto",
                allow_preview=False,
                object_fit="contain",
                format="png",
                buttons=[],
                interactive=False,
                elem_id="found",
            )
            near = gr.HTML(elem_id="near", padding=False)
    outputs = [gallery, found, near]
    button.click(handlers.answering(handlers.search), [text, top, rerank], outputs, **MODEL)
    text.submit(handlers.answering(handlers.search), [text, top, rerank], outputs, **MODEL)
    gallery.select(handlers.answering(handlers.pick_hit), [found], [near], **MODEL)


def _explore_tab(handlers: Handlers, heads: list[str]) -> None:
    """Builds the tab that shows where each phrase of a caption looks."""
    seen = gr.State(time_to_live=KEPT_SECONDS)
    number = gr.State(0)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=280):
            image = _image_input("explore-image", handlers.limits)
            caption = gr.Textbox(label="Caption", lines=4, elem_id="explore-caption")
            with gr.Row():
                example = gr.Button("Next example", min_width=150, elem_id="explore-example")
                button = gr.Button("Look", variant="primary", min_width=80, elem_id="look")
        with gr.Column(scale=5):
            choice = gr.Radio(
                label="The caption, its sentences and their phrases: choose one to see where it looks",
                visible=False,
                elem_id="texts",
            )
            head = _head_choice("explore-head", heads)
            shown = gr.HTML(elem_id="shown", padding=False)
    inputs = [image, caption, head]
    outputs = [seen, choice, shown]
    next_example = example.click(
        handlers.answering(handlers.next_with_caption), [number], [image, caption, number], **MODEL
    )
    next_example.success(handlers.answering(handlers.explore_example), inputs, outputs, **MODEL)
    button.click(handlers.answering(handlers.explore), inputs, outputs, **MODEL)
    for changed in (choice, head):
        changed.input(handlers.answering(handlers.pick_text), [seen, choice, head], [shown], **MODEL)


def _compare_tab(handlers: Handlers, heads: list[str]) -> None:
    """Builds the tab that compares two captions."""
    compared = gr.State(time_to_live=KEPT_SECONDS)
    number = gr.State(0)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=280):
            image = _image_input("compare-image", handlers.limits)
            first = gr.Textbox(label="Caption A", lines=3, elem_id="caption-a")
            second = gr.Textbox(label="Caption B", lines=3, elem_id="caption-b")
            with gr.Row():
                example = gr.Button("Next example", min_width=150, elem_id="compare-example")
                button = gr.Button("Compare", variant="primary", min_width=80, elem_id="compare")
        with gr.Column(scale=5):
            head = _head_choice("compare-head", heads)
            shown = gr.HTML(elem_id="compared", padding=False)
    inputs = [image, first, second, head]
    outputs = [compared, shown]
    next_example = example.click(
        handlers.answering(handlers.next_with_two_captions), [number], [image, first, second, number], **MODEL
    )
    next_example.success(handlers.answering(handlers.compare_example), inputs, outputs, **MODEL)
    button.click(handlers.answering(handlers.compare), inputs, outputs, **MODEL)
    head.input(handlers.answering(handlers.pick_head), [compared, head], [shown], **MODEL)


def _image_input(name: str, limits: Limits) -> gr.Image:
    """Builds a field for an image. Its value is the path of the uploaded file."""
    image = gr.Image(
        label=f"Image, up to {limits.upload_mib:g} MiB",
        type="filepath",
        format="png",
        height=280,
        sources=["upload", "clipboard"],
        buttons=[],
        elem_id=name,
        alt_text="The image that was chosen",
    )
    # Gradio itself would open the file, and would not tell the visitor when that fails. `Limits.image` does. The method
    # is replaced here, because for a subclass Gradio would write a .pyi file beside this one.
    image.preprocess = _path_of_upload  # type: ignore[method-assign]
    return image


def _head_choice(name: str, heads: list[str]) -> gr.Dropdown:
    """Builds a field for a head of the pooler. It is hidden for a model without a pooler."""
    return gr.Dropdown(heads, value=MEAN_OF_HEADS, label="Attention head", visible=len(heads) > 1, elem_id=name)


def _path_of_upload(payload: Any) -> str | None:
    """Returns the path of an uploaded file, or `None` if there is none."""
    return None if payload is None else payload.path


def _heading(collection: Collection) -> str:
    """Writes the head of the page: what is searched, with which model, and how to read a heat map."""
    model_name = "/".join(Path(collection.index.table.info["model"]).parts[-2:])
    return (
        "<header><h1>β-CLIP</h1><p>A CLIP that shows where each phrase of a caption looks. "
        f"Searched here: {escape(collection.title)}, with the model “{escape(model_name)}”. In heat maps, grey is no "
        "more attention than evenly spread; dark blue to yellow is more and more.</p></header>"
    )
