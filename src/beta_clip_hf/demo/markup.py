"""The results of the demo as pieces of HTML. Every text in them is escaped."""

from collections.abc import Iterable, Sequence
from html import escape

from PIL import Image
from torch import Tensor

from ..inference.look import PHRASE, ShownText
from ..model.image_views_beta_clip import view_in_pixels
from ..search.gallery import image_of
from ..search.index import PhotoIndex
from ..search.query import Hit
from ..search.rerank import attention_maps
from ..visualize.heat_maps import NOWHERE, highest_of, looks_nowhere, overlay, scale_image
from ..visualize.pages import figure_html, png_uri
from .views import Comparison, Found, Scores, Seen, shown_size


NO_POOLER = "This model has no trained pooler, so that there are no heat maps."
NO_PATCHES = "There are no heat maps of this image: they need its file, or an index that was made with --store-patches."
_WINNER_NAMES = {"": "neither", "A": "caption A", "B": "caption B"}


def hit_html(index: PhotoIndex, found: Found, place: int) -> str:
    """
    Shows an image that was found, and where each phrase looks in it as the mean over the heads of the pooler.

    Args:
        index: The index that was searched.
        found: The result of the search.
        place: Position of the image in the result.
    """
    hit = found.hits[place]
    image = image_of(hit.image, index.table)
    if image is None:
        return note_html("This image can no longer be opened.")
    caption = str(hit.columns.get("caption", ""))
    head = f"<h3>Result {place + 1}</h3>"
    if caption:
        head += f"<p>{escape(caption)}</p>"
    if len(found.hits) > 1:
        head += note_html("Choose another image above to see it here.")
    whole = picture_html(shown_size(image), "the image", alt=caption or f"Result {place + 1}")
    if not index.embedder.has_pooler:
        return head + _figures_html([whole]) + note_html(NO_POOLER)
    maps_TYX = _maps_of_hit(index, hit, found.phrases)
    if maps_TYX is None:
        return head + _figures_html([whole]) + note_html(NO_PATCHES)
    highest = highest_of(*maps_TYX)
    # The model sees what its processor does not crop away, and the maps cover only that.
    view = shown_size(image.crop(view_in_pixels(image.size, index.embedder.image_processor)))
    figures = [whole]
    for phrase, heat_YX in zip(found.phrases, maps_TYX, strict=True):
        figures.append(heat_html(overlay(view, heat_YX, highest), phrase))
    return head + _figures_html(figures) + scale_html(highest) + _note_on(maps_TYX)


def _maps_of_hit(index: PhotoIndex, hit: Hit, phrases: Sequence[str]) -> Tensor | None:
    """Returns where each phrase looks in an image, (T, Y, X); `None` without its patch features."""
    phrase_embeds_TD = index.embedder.texts(phrases, PHRASE)
    return attention_maps([hit.image], phrase_embeds_TD, index.table, index.embedder).get(hit.image)


def text_choices(texts: Sequence[ShownText]) -> list[tuple[str, str]]:
    """
    Returns a label and a value for each text to choose from.

    The value begins with the kind of the text, by which the style sheet lays the choices out.
    """
    return [(text.text, f"{text.kind}-{place}") for place, text in enumerate(texts)]


def first_choice(texts: Sequence[ShownText]) -> str:
    """Returns the value of the first phrase, or of the whole caption if it has none."""
    first_place = 0
    for place, text in enumerate(texts):
        if text.kind == PHRASE:
            first_place = place
            break
    _, value = text_choices(texts)[first_place]
    return value


def place_of(choice: str) -> int:
    """Returns the position of the text that a value of [`text_choices`] stands for."""
    return int(choice.rpartition("-")[2])


def text_html(seen: Seen, place: int, head: int | None = None) -> str:
    """
    Shows the image, the heat map of a text beside it, the colour scale, and the scores of the text.

    Args:
        seen: What the model sees.
        place: Position of the text.
        head: Head of the pooler; `None` shows the mean of all heads.
    """
    plain = picture_html(seen.view(), "what the model sees", alt="The image as the model sees it")
    scores = note_html(_scores_of_text(seen, place))
    if seen.look.attention_THYX is None:
        return _figures_html([plain]) + note_html(NO_POOLER) + scores
    heat = heat_html(seen.heat_map(place, head), seen.texts[place].text, classes=["heat"])
    return _figures_html([plain, heat]) + scale_html(seen.highest(head)) + _note_on(seen.look.maps(head)) + scores


def _scores_of_text(seen: Seen, place: int) -> str:
    similarity = f"Cosine with the whole image: {float(seen.look.similarity_T[place]):.3f}"
    if seen.look.conditioned_T is None:
        return f"{similarity}."
    return f"{similarity}; with the image as this text sees it: {float(seen.look.conditioned_T[place]):.3f}."


def comparison_html(compared: Comparison, head: int | None = None) -> str:
    """
    Shows which of two captions fits better, their scores, and the heat maps of the phrases in which they differ.

    Args:
        compared: The comparison.
        head: Head of the pooler; `None` shows the mean of all heads.
    """
    scores = compared.scores()
    rows = "".join(_score_row(name, pair) for name, pair in scores.items())
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
    for letter, places in compared.differing_texts().items():
        figures = [heat_html(seen.heat_map(place, head), seen.texts[place].text) for place in places]
        if figures:
            sections.append(f"<section><h3>Only in caption {letter}</h3>{_figures_html(figures)}</section>")
    scale = scale_html(seen.highest(head)) + _note_on(seen.look.maps(head))
    return f'{verdict}{table}<div class="sides">{"".join(sections)}</div>{scale}'


def _score_row(name: str, scores: Scores) -> str:
    """Writes a row of the table of scores."""
    cells = ""
    for letter, score in (("A", scores.first), ("B", scores.second)):
        # A mark tells the winner to people who do not see that its score is bold.
        if letter == scores.winner:
            cells += f'<td class="wins">{score:.3f} ✓</td>'
        else:
            cells += f"<td>{score:.3f}</td>"
    margin = "neither"
    if scores.winner:
        margin = f"{scores.winner}, by {abs(scores.first - scores.second):.3f}"
    return f'<tr><th scope="row">{name}</th>{cells}<td>{margin}</td></tr>'


def verdict_of(scores: Sequence[Scores]) -> str:
    """
    Says in a sentence which caption the scores prefer.

    Args:
        scores: The scores by CLS, and those with text-conditioned images if the model has them.

    >>> verdict_of([Scores(0.3, 0.2), Scores(0.5, 0.6)])
    'The scores disagree: by CLS caption A fits better, text-conditioned caption B.'
    """
    winners = [pair.winner for pair in scores]
    if len(set(winners)) > 1:
        by_cls, conditioned = [_WINNER_NAMES[winner] for winner in winners]
        return f"The scores disagree: by CLS {by_cls} fits better, text-conditioned {conditioned}."
    if winners[0] == "":
        return "Both captions fit equally well."
    agreement = ""
    if len(winners) > 1:
        agreement = ", by both scores"
    return f"Caption {winners[0]} fits better{agreement}."


def picture_html(image: Image.Image, caption: str, *, alt: str, classes: Sequence[str] = ()) -> str:
    """Shows a picture pixel for pixel, with a caption below it and a text in its place for those who do not see it."""
    return figure_html(png_uri(image), caption, alt=alt, classes=classes)


def heat_html(heat_map: Image.Image, text: str, *, classes: Sequence[str] = ()) -> str:
    """Shows the heat map of a text."""
    return picture_html(heat_map, text, alt=f"Where “{text}” looks", classes=classes)


def scale_html(highest: float) -> str:
    """Shows the colour scale of heat maps up to its end, in multiples of uniform attention."""
    return (
        f'<div class="scale"><span>1 × uniform</span><img src="{png_uri(scale_image(256, 16))}" '
        f'alt="Colour scale: grey to dark blue to yellow, from 1 to {highest:.3g} times uniform attention">'
        f"<span>{highest:.3g} × uniform</span></div>"
    )


def note_html(text: str) -> str:
    """Shows a line of small text."""
    return f'<p class="note">{escape(text)}</p>'


def _note_on(maps_TYX: Tensor) -> str:
    """Says so if all heat maps are grey."""
    return note_html(NOWHERE) if looks_nowhere(*maps_TYX) else ""


def _figures_html(figures: Iterable[str]) -> str:
    """Puts figures side by side."""
    return f'<div class="figures">{"".join(figures)}</div>'
