"""read: the projection of every token of a text on a run's direction, coloured in the terminal and as a page."""

import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.text import Text as Line

from activations import model as models
from activations.errors import InputError
from activations.pairs import Text
from activations.tokens import token_pieces, tokenize
from analysis.reading_page import number, shade, visible, write_page
from probes.direction import Direction
from probes.reading import Reading, neutral_range, token_projections
from scripts.reopen import described, open_model, pick, reopened
from scripts.runfolder import Run

BAR = 10  # characters on either side of the middle
BUILTIN = "compassion"


def read(
    folder: Path,
    text: str,
    *,
    prompt: str | None,
    checkpoint: str,
    layer: int | None,
    domain: str,
    study: Path | None,
    html: Path | None,
    device: torch.device,
    console: Console,
) -> None:
    """Print a text's tokens along a checkpoint's direction; with `html`, write the page too.

    Args:
        text: what is read: as it is, or as the answer to `prompt` in the study's template.

    Raises:
        InputError: no such run, checkpoint, layer or domain, or a text without a token to read.
    """
    name, direction = pick(folder, checkpoint, layer, domain)
    run = reopened(folder, study, name, device=device)
    asked = _text(run, text, prompt)
    model, neutral = open_model(run, name)
    token = tokenize(model.tokenizer, [asked], model.context, "TEXT")[0]
    plan = run.plan(run.study.lineage.by_name[name])
    low, high = neutral_range(token_projections(model, neutral, direction, plan))
    reading = Reading(
        pieces=tuple(token_pieces(model.tokenizer, asked)),
        projections=token_projections(model, [token], direction, plan)[0],
        read_from=token.read_from,
        low=low,
        high=high,
    )
    _print(reading, name, direction, console)
    if html is not None:
        about = {"run": str(folder), "checkpoint": name, "direction": described(direction)}
        write_page(html, reading, {key: visible(value) for key, value in about.items()})
        console.print(str(html), markup=False, highlight=False, soft_wrap=True)


def given_text(text: str, file: Path | None) -> str:
    """The text of a command line: an argument, a file, or with `-` the standard input.

    Raises:
        InputError: none or both given, a file that cannot be read, or bytes that are no UTF-8 text.
    """
    if (text != "") == (file is not None):
        raise InputError("give a text or a --file, one of them", where="TEXT", mend="`-` reads the standard input")
    where = str(file) if file is not None else "TEXT"
    try:
        if file is not None:
            return file.read_text(encoding="utf-8")
        found = sys.stdin.buffer.read().decode("utf-8") if text == "-" else text
        found.encode("utf-8")  # arguments that were no UTF-8 carry lone surrogates
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=where, mend="give a text file") from error
    except UnicodeError as error:
        raise InputError("is not UTF-8 text", where=where, mend="save it as UTF-8") from error
    return found


def _text(run: Run, text: str, prompt: str | None) -> Text:
    if not text.strip():
        raise InputError("holds no word", where="TEXT", mend="give it some text")
    if prompt is None:
        return Text(kind="neutral", text_id="TEXT", text=text, group="TEXT")
    template = models.study_template(run.study)
    asked = template.prompt(prompt)
    whole = asked + template.answer_prefix + text.strip()
    return Text(
        kind="response",
        text_id="TEXT",
        text=whole,
        group="TEXT",
        read_from=len(asked),
        special_tokens=template.special_tokens,
    )


def _print(reading: Reading, name: str, direction: Direction, console: Console) -> None:
    coloured = console.color_system is not None and not console.no_color
    line = Line() if coloured else None
    for index, piece in enumerate(reading.pieces):
        shown = visible(piece) or "·"
        if line is not None:
            style = f"black on {shade(reading.place(index))}" if index >= reading.read_from else "dim italic"
            line.append(shown, style=style)
        else:
            console.print(_row(reading, index, shown), markup=False, highlight=False, soft_wrap=True)
    if line is not None:
        console.print(line, soft_wrap=True)
    low, high = number(reading.low), number(reading.high)
    scale = Line()
    lower, upper = _ends(direction.contrast)
    scale.append(f"{lower} {low} τ ")
    if coloured:
        for step in range(-4, 5):
            scale.append("  ", style=f"on {shade(step / 4)}")
    else:
        scale.append("◄◄◄│►►►")
    scale.append(f" {high} τ {upper} (1 % and 99 % of the study's neutral tokens)")
    console.print(scale, soft_wrap=True)
    read = reading.projections[reading.read_from :]
    said = f"{name}, {described(direction)}: mean of {len(read)} tokens {number(float(read.mean()))} τ"
    console.print(said, markup=False, highlight=False, soft_wrap=True)
    unread = "the first token is an attention sink" if reading.read_from == 1 else "the prompt comes before"
    console.print(f"not read: {unread}", markup=False, highlight=False, soft_wrap=True)


def _ends(contrast: str) -> tuple[str, str]:
    """What the scale's two ends are called: the built-in contrast has names for its sides, others only their own."""
    return ("curt", "compassionate") if contrast == BUILTIN else (f"less {contrast}", f"more {contrast}")


def _row(reading: Reading, index: int, shown: str) -> str:
    flat = shown.replace("\n", "").replace(" ", "␣")
    if index < reading.read_from:
        return f"{'not read':>8}  {'':{2 * BAR + 1}}  {flat}"
    place = max(-1.0, min(reading.place(index), 1.0))
    length = round(abs(place) * BAR)
    left, right = ("◄" * length, "") if place < 0 else ("", "►" * length)
    return f"{number(float(reading.projections[index])):>8}  {left:>{BAR}}│{right:<{BAR}}  {flat}"


if __name__ == "__main__":
    from scripts.cli import main

    main("read")
