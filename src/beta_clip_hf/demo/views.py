"""
What the demo shows, without the page around it: search results, heat maps, a comparison; as data, images and HTML in
which every text is escaped.

Letters: T texts; Y, X rows and columns of patches.
"""

from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from PIL import Image

from ..inference.look import CAPTION, PHRASE, SENTENCE, Look, ShownText, look, split_texts
from ..model.image_views_beta_clip import view_of_image
from ..model.modeling_beta_clip import BetaCLIPModel
from ..search.gallery import image_of, phrases_to_show
from ..search.index import PhotoIndex
from ..search.query import Hit, Query
from ..search.rerank import attention_maps
from ..visualize.heat_maps import enlarged, highest_of, overlay, scale_image
from ..visualize.pages import figure_html, png_uri


MOST_PHRASES = 40  # of a caption
MOST_DIFFERENT = 4  # phrases of each of two captions
SHOWN_SIDE = 512  # pixels at most: larger pictures only take longer to load
NO_POOLER = "This model has no trained pooler, so that there are no heat maps."


class Seen(NamedTuple):
    """An image, texts, and what the model sees of one for the other."""

    look: Look
    texts: list[ShownText]

    def view(self) -> Image.Image:
        """The part of the image that the model sees, as large as it is shown."""
        return shown_size(self.look.view)

    def highest(self, head: int | None = None) -> float:
        """The end of the one colour scale for all texts, in multiples of uniform."""
        return highest_of(*self.look.maps(head))

    def heat_map(self, place: int, head: int | None = None) -> Image.Image:
        """
        Where a text looks.

        Args:
            place: Of the text.
            head: Of the pooler; the mean of all by default.
        """
        return overlay(self.view(), self.look.maps(head)[place], self.highest(head))


class Found(NamedTuple):
    """The images that a text has found, best first, and the phrases whose heat maps are shown."""

    hits: list[Hit]
    phrases: list[str]


class Comparison(NamedTuple):
    """Two captions of one image."""

    seen: Seen
    """Of both captions, then of the phrases that only one of them has."""
    of_first: int
    """How many of these phrases are those of the first caption; the others are those of the second."""

    def scores(self) -> dict[str, tuple[float, float]]:
        """By name, the cosine of each caption."""
        look = self.seen.look
        rows = {"whole image (CLS)": look.similarity_T}
        if look.conditioned_T is not None:
            rows["as each text sees it (text-conditioned)"] = look.conditioned_T
        return {name: (float(scores_T[0]), float(scores_T[1])) for name, scores_T in rows.items()}


def explore(model: Any, processor: Any, image: Image.Image, caption: str) -> Seen:
    """
    What a model sees of an image for a caption, its sentences and their phrases.

    Raises:
        ValueError: for a model that is neither a β-CLIP nor an FG-CLIP.
    """
    _check_model(model)
    texts = split_texts([caption], most_phrases=MOST_PHRASES)
    return Seen(look(model, processor, image, texts), texts)


def compare(model: Any, processor: Any, image: Image.Image, first: str, second: str) -> Comparison:
    """
    Which of two captions a model prefers for an image, and where the phrases look in which they differ.

    Raises:
        ValueError: where the captions are the same; for a model that is neither a β-CLIP nor an FG-CLIP.
    """
    _check_model(model)
    only_first, only_second = differences(first, second)
    texts = [ShownText(first, CAPTION), ShownText(second, CAPTION)]
    texts += [ShownText(text, PHRASE) for text in (*only_first, *only_second)]
    return Comparison(Seen(look(model, processor, image, texts), texts), len(only_first))


def differences(first: str, second: str) -> tuple[list[str], list[str]]:
    """
    The phrases that only one of two captions has, at most `MOST_DIFFERENT` of each; where there are none, sentences.

    Raises:
        ValueError: where the captions are the same.

    >>> differences("A red cube is near a ball.", "A blue cube is near a ball.")
    (['A red cube'], ['A blue cube'])
    """
    parts = [split_texts([text], most_phrases=MOST_PHRASES) for text in (first, second)]
    for kinds in ({PHRASE}, {SENTENCE}, {CAPTION, PHRASE}):
        words = [{_folded(one.text): one.text for one in of_text if one.kind in kinds} for of_text in parts]
        only = [[text for key, text in words[n].items() if key not in words[1 - n]] for n in (0, 1)]
        if any(only):
            return only[0][:MOST_DIFFERENT], only[1][:MOST_DIFFERENT]
    raise ValueError("The two captions must differ, but are the same.")


def find(index: PhotoIndex, text: str, top: int, rerank: bool) -> Found:
    """The `top` images of an index for a text; with `rerank`, by how each text sees ten times as many of the best."""
    hits = index.search(text, top=top, rerank=10 * top if rerank else 0)
    return Found(hits, [phrase for phrase, _ in phrases_to_show(Query(text))])


def thumbnails(index: PhotoIndex, found: Found) -> list[tuple[Image.Image, str]]:
    """A small picture of each hit and what stands below it; grey where the image can no longer be opened."""
    shown = []
    for rank, hit in enumerate(found.hits, 1):
        image = image_of(hit.image, index.table) or Image.new("RGB", (SHOWN_SIDE, SHOWN_SIDE), "#888888")
        name = hit.columns.get("caption") or hit.image.replace("\\", "/").rpartition("/")[2]
        shown.append((image, f"{rank}. {hit.score:.3f} — {name}"))
    return shown


def hit_html(index: PhotoIndex, found: Found, place: int) -> str:
    """One of the images that were found, and where each phrase looks in it, the mean over the pooler's heads."""
    hit, embedder = found.hits[place], index.embedder
    image = image_of(hit.image, index.table)
    if image is None:
        return note_html("This image can no longer be opened.")
    caption = str(hit.columns.get("caption", ""))
    title = f"<h3>Result {place + 1}</h3>" + (f"<p>{escape(caption)}</p>" if caption else "")
    title += note_html("Choose another image above to see it here.") if len(found.hits) > 1 else ""
    whole = figure_html(png_uri(shown_size(image)), "the image", alt=caption or f"Result {place + 1}")
    if not embedder.has_pooler:
        return title + _row([whole]) + note_html(NO_POOLER)
    maps = attention_maps([hit.image], embedder.texts(found.phrases), index.table, embedder)
    view = shown_size(image.crop(view_of_image(image.size, embedder.image_processor)))
    maps_TYX = maps[hit.image]
    highest = highest_of(*maps_TYX)
    figures = [
        figure_html(png_uri(overlay(view, heat_YX, highest)), phrase, alt=f"Where “{phrase}” looks")
        for phrase, heat_YX in zip(found.phrases, maps_TYX, strict=True)
    ]
    return title + _row([whole, *figures]) + scale_html(highest)


def text_choices(texts: Sequence[ShownText]) -> list[tuple[str, str]]:
    """Label and value of each text to choose from. The value starts with its kind, by which the page lays it out."""
    return [(one.text, f"{one.kind}-{place}") for place, one in enumerate(texts)]


def first_choice(texts: Sequence[ShownText]) -> str:
    """The value of the first phrase, or of the whole caption where there is none."""
    place = next((place for place, one in enumerate(texts) if one.kind == PHRASE), 0)
    return text_choices(texts)[place][1]


def place_of(choice: str) -> int:
    """The place of the text that a value of [`text_choices`] stands for."""
    return int(choice.rpartition("-")[2])


def text_html(seen: Seen, place: int, head: int | None = None) -> str:
    """The heat map of one text beside the image, its scores, and the colour scale."""
    text = seen.texts[place].text
    plain = figure_html(png_uri(seen.view()), "what the model sees", alt="The image as the model sees it")
    if seen.look.attention_THYX is None:
        return _row([plain]) + note_html(NO_POOLER) + note_html(_scores(seen, place))
    heat = figure_html(png_uri(seen.heat_map(place, head)), text, alt=f"Where “{text}” looks", classes=["heat"])
    return _row([plain, heat]) + scale_html(seen.highest(head)) + note_html(_scores(seen, place))


def comparison_html(compared: Comparison, head: int | None = None) -> str:
    """The scores of both captions as a table, which of them wins, and the heat maps of what differs."""
    scores = compared.scores()
    rows = "".join(_score_row(name, *pair) for name, pair in scores.items())
    table = (
        '<table><thead><tr><th scope="col">cosine with the image</th><th scope="col">caption A</th>'
        '<th scope="col">caption B</th><th scope="col">which fits better</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )
    verdict = f'<p class="verdict" role="status">{verdict_of(list(scores.values()))}</p>'
    seen = compared.seen
    if seen.look.attention_THYX is None:
        return verdict + table + note_html(NO_POOLER)
    sections = []
    ends = {"A": (2, 2 + compared.of_first), "B": (2 + compared.of_first, len(seen.texts))}
    for name, (start, end) in ends.items():
        figures = [
            figure_html(
                png_uri(seen.heat_map(place, head)),
                seen.texts[place].text,
                alt=f"Where “{seen.texts[place].text}” looks",
            )
            for place in range(start, end)
        ]
        if figures:
            sections.append(f"<section><h3>Only in caption {name}</h3>{_row(figures)}</section>")
    return f'{verdict}{table}<div class="sides">{"".join(sections)}</div>{scale_html(seen.highest(head))}'


def verdict_of(pairs: Sequence[tuple[float, float]]) -> str:
    """
    Which caption the scores prefer, in one sentence.

    >>> verdict_of([(0.3, 0.2), (0.5, 0.6)])
    'The scores disagree: by CLS caption A fits better, text-conditioned caption B.'
    """
    winners = [{"": "neither", "A": "caption A", "B": "caption B"}[_winner(*pair)] for pair in pairs]
    if len(set(winners)) > 1:
        return "The scores disagree: by CLS {} fits better, text-conditioned {}.".format(*winners)
    if winners[0] == "neither":
        return "Both captions fit equally well."
    return f"C{winners[0][1:]} fits better{', by both scores' if len(winners) > 1 else ''}."


def scale_html(highest: float) -> str:
    """The colour scale of the heat maps, in multiples of uniform attention."""
    bar = scale_image(256, 16)
    return (
        f'<div class="scale"><span>1 × uniform</span><img src="{png_uri(bar)}" '
        f'alt="Colour scale: grey to dark blue to yellow, from 1 to {highest:.3g} times uniform attention">'
        f"<span>{highest:.3g} × uniform</span></div>"
    )


def note_html(text: str) -> str:
    """A line of small text."""
    return f'<p class="note">{escape(text)}</p>'


def shown_size(image: Image.Image) -> Image.Image:
    """The image as large as it is shown: small ones enlarged with square pixels, large ones made smaller."""
    image = enlarged(image.convert("RGB"))
    if max(image.size) > SHOWN_SIDE:
        image = image.copy()
        image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return image


def _check_model(model: Any) -> None:
    if not isinstance(model, BetaCLIPModel):
        raise ValueError(f"The model must be a β-CLIP or an FG-CLIP for this, but is a {type(model).__name__}.")


def _scores(seen: Seen, place: int) -> str:
    similarity = f"Cosine with the whole image: {float(seen.look.similarity_T[place]):.3f}"
    if seen.look.conditioned_T is None:
        return f"{similarity}."
    return f"{similarity}; with the image as this text sees it: {float(seen.look.conditioned_T[place]):.3f}."


def _score_row(name: str, first: float, second: float) -> str:
    winner = _winner(first, second)
    cells = "".join(
        f'<td class="wins">{score:.3f} ✓</td>' if winner == letter else f"<td>{score:.3f}</td>"
        for letter, score in (("A", first), ("B", second))
    )
    by = f"{winner}, by {abs(first - second):.3f}" if winner else "neither"
    return f'<tr><th scope="row">{name}</th>{cells}<td>{by}</td></tr>'


def _winner(first: float, second: float) -> str:
    return "A" if first > second else "B" if second > first else ""


def _folded(text: str) -> str:
    return text.casefold().strip(" .")


def _row(figures: Sequence[str]) -> str:
    return f'<div class="figures">{"".join(figures)}</div>'
