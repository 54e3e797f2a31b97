"""A text read along a direction, as one self-contained HTML page; what of it the terminal shows too."""

import unicodedata
from pathlib import Path
from typing import Any

from activations.artifact import write_text
from analysis.page import environment
from probes.reading import Reading

CURT, COMPASSIONATE = (230, 145, 56), (90, 155, 230)  # orange and blue: apart for every kind of colour vision
HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # Unicode categories that draw nothing, or move what is drawn


def visible(text: str) -> str:
    """A text whose control and format characters can be seen and do nothing; lines still break at line feeds.

    C0 controls become their pictures (␉, ␛), others their code point in ⟨⟩.
    """
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if character == "\n":
        return "␊\n"
    if character < " ":
        return chr(0x2400 + ord(character))
    if character == "\x7f":
        return "␡"
    return f"⟨U+{ord(character):04X}⟩" if unicodedata.category(character) in HIDDEN else character


def shade(place: float) -> str:
    """The background of a token in the terminal, for black letters: white at 0, orange at −1, blue at +1 and beyond."""
    share = min(abs(place), 1.0)
    hue = CURT if place < 0 else COMPASSIONATE
    return "#" + "".join(f"{round(255 + (channel - 255) * share):02x}" for channel in hue)


def number(value: float) -> str:
    """A projection in units of τ, with its sign and three decimals."""
    return f"{value:+.3f}".replace("-", "−")


def write_page(path: Path, reading: Reading, about: dict[str, str]) -> None:
    """Write the page: the text with coloured tokens and a table of its numbers; nothing is fetched from elsewhere.

    Args:
        path: the HTML file.
        reading: the tokens.
        about: what was read, as (name, value) lines of the page's head.
    """
    page = (
        environment()
        .get_template("reading.html")
        .render(tokens=_tokens(reading), about=about, low=number(reading.low), high=number(reading.high))
    )
    write_text(path, page)


def _tokens(reading: Reading) -> list[dict[str, Any]]:
    found = []
    for index, piece in enumerate(reading.pieces):
        place = reading.place(index)
        share = min(abs(place), 1.0)
        found.append(
            {
                "number": index + 1,
                "piece": visible(piece) or "·",
                "read": index >= reading.read_from,
                "value": number(float(reading.projections[index])),
                "side": "curt" if place < 0 else "kind",
                "percent": round(100 * share),
                "left": round(50 - 50 * share if place < 0 else 50, 1),
                "width": round(50 * share, 1),
            }
        )
    return found
