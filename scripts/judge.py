"""judge: another model's rating of the sampled answers, from an OpenAI-compatible endpoint; no other verb calls it."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from activations.artifact import content_hash, sole_writer, write_text
from activations.errors import InputError
from analysis.tables import TABLES, read_table, write_table
from probes.inference import mean_interval
from scripts.endpoint import Endpoint, open_endpoint
from scripts.rubric import rating_messages, score_of

PLACE = ("checkpoint", "scenario_id", "alpha", "sample")  # what names an answer
WRITE_EVERY = 1.0  # seconds at least between two writes of the whole file: of a killed process no more is lost
Line = dict[str, Any]


def judge(folder: Path, url: str, model: str, key_env: str | None, limit: int | None, console: Console) -> None:
    """Ask about every answer of generations.csv that this model has not rated yet; write and print judged.csv.

    Args:
        folder: the run folder.
        url, model, key_env: the endpoint, as `open_endpoint` takes them.
        limit: most questions to ask now; None asks all.

    Raises:
        InputError: no answers to rate, or the endpoint fails; the replies so far are kept.
    """
    where = folder / "tables"
    answers = read_table(where, "generations")
    answers = answers[answers.text.str.strip() != ""]
    if answers.empty:
        mend = "set sample_prompts in the study above 0 and run `compassion sample`"
        raise InputError("holds no answer to rate", where=str(where / "generations.csv"), mend=mend)
    endpoint = open_endpoint(url, model, key_env)
    with sole_writer(folder):
        path = folder / "judge" / f"{slug(model)}.jsonl"
        _ask(path, answers, endpoint, limit, console)
        lines = [line for found in sorted(path.parent.glob("*.jsonl")) for line in read_replies(found)]
        judged = judged_rows(answers, lines)
        write_table(where, "judged", judged)
    _print(judged[judged.judge == model], answers, model, console)


def slug(model: str) -> str:
    """A model's name as the name of a file; lines of models that share one name stay apart by their `model`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip(".-")[:100] or "model"


def read_replies(path: Path) -> list[Line]:
    """The lines of a file of replies; none where there is no file.

    Raises:
        InputError: a line that this program did not write.
    """
    try:
        written = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeError) as error:
        raise InputError(f"cannot be read ({error})", where=str(path), mend="move it away and judge again") from error
    lines = []
    for number, text in enumerate(written, 1):
        try:
            line = json.loads(text)
            hash((_key(line["model"], line["messages"]), *(line[name] for name in (*PLACE, "reply", "url"))))
            sound = line["score"] in (None, 1, 2, 3, 4, 5)
        except (ValueError, TypeError, LookupError):
            sound = False
        if not sound:
            raise InputError("is no reply of a judge", where=f"{path}, line {number}", mend="delete this line")
        lines.append(line)
    return lines


def judged_rows(answers: pd.DataFrame, lines: list[Line]) -> pd.DataFrame:
    """judged.csv: every answer with every judge's score, where it was asked about these very words."""
    scores = {_key(line["model"], line["messages"]): line["score"] for line in lines}
    found = []
    for model in sorted({str(line["model"]) for line in lines}):
        keys = [_key(model, messages) for messages in _messages(answers)]
        part = answers[[key in scores for key in keys]]
        found.append(part.assign(judge=model, score=[scores[key] for key in keys if key in scores]))
    table = pd.concat(found) if found else answers.iloc[:0].assign(judge="", score=None)
    return table[list(TABLES["judged"])]


def _ask(path: Path, answers: pd.DataFrame, endpoint: Endpoint, limit: int | None, console: Console) -> None:
    """Bring the file of replies up to date; what came in is written whatever ends this."""
    lines = read_replies(path)
    known = {_key(line["model"], line["messages"]): line for line in lines}
    there = {(_key(line["model"], line["messages"]), *(line[name] for name in PLACE)) for line in lines}
    asked, saved, saved_at = 0, len(lines), time.monotonic()
    # Scenario by scenario, so that a judge who stops early has compared checkpoints on the same prompts.
    ordered = answers.sort_values("scenario_id", kind="stable")
    work = zip(ordered.itertuples(), _messages(ordered), strict=True)
    try:
        for row, messages in track(work, "judge", len(ordered), console=console, transient=True):
            key = _key(endpoint.model, messages)
            place = (row.checkpoint, row.scenario_id, float(row.alpha), int(row.sample))
            if (key, *place) in there:
                continue
            if key not in known:
                if asked == limit:
                    continue
                asked += 1
                reply = endpoint.ask(messages)
                known[key] = {"messages": messages, "reply": reply, "score": score_of(reply), "url": endpoint.url}
            about = dict(zip(PLACE, place, strict=True)) | {"model": endpoint.model}
            lines.append(about | {name: known[key][name] for name in ("messages", "reply", "score", "url")})
            if time.monotonic() - saved_at >= WRITE_EVERY:
                _write(path, lines)
                saved, saved_at = len(lines), time.monotonic()
    finally:
        if len(lines) > saved:
            _write(path, lines)


def _write(path: Path, lines: list[Line]) -> None:
    # ASCII: a reply may hold half a surrogate pair, which UTF-8 cannot, and line separators that are no line feeds.
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def _key(model: str, messages: list[dict[str, str]]) -> str:
    return content_hash([model, messages])


def _messages(answers: pd.DataFrame) -> Iterator[list[dict[str, str]]]:
    return (rating_messages(row.prompt, row.text) for row in answers.itertuples())


def _print(judged: pd.DataFrame, answers: pd.DataFrame, model: str, console: Console) -> None:
    """A line per checkpoint and dose, and one over all."""
    from scipy.stats import spearmanr

    read = judged.assign(reader_score=answers.reader_score)  # rows keep their labels
    scored = read.dropna(subset="score").astype({"score": float})
    said = f"{model}: {len(scored)} of {len(answers)} answers scored, {len(read) - len(scored)} replies hold no score"
    console.print(f"{said}, {len(answers) - len(read)} not asked about", markup=False, highlight=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("checkpoint", no_wrap=True)
    for name in ("dose (τ)", "answers", "score, 1 to 5", "rank correlation with reader_score"):
        table.add_column(name, justify="right")
    groups = [((str(a), f"{b:g}"), part) for (a, b), part in scored.groupby(["checkpoint", "alpha"], sort=False)]
    for (checkpoint, dose), part in [*groups, (("all", ""), scored)]:
        mean = part.groupby("scenario_id").score.mean().to_numpy()
        both = part.dropna(subset="reader_score")
        related = "–"
        if min(both.score.nunique(), both.reader_score.nunique()) > 1:
            related = f"{spearmanr(both.score, both.reader_score).statistic:+.2f}"
        interval = "–"
        if len(mean) > 1:
            found = mean_interval(mean)
            interval = f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
        cells = (dose, str(len(part)), interval, f"{related} (n = {len(both)})")
        table.add_row(escape(checkpoint), *(cell.replace("-", "−") for cell in cells))
    console.print(table)
