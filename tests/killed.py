"""What a child process runs that is killed or starved of disk: a small capture on the tiny model.

Imported by a fork server that opens the model once, so that a child starts at once and is killed while it captures.
"""

import os
import resource
import signal
import sys
from pathlib import Path

import torch
from conftest import base, study_of

from activations import capture as capturing
from activations.artifact import sole_writer
from activations.capture import capture
from activations.errors import InputError
from activations.model import open_checkpoint
from activations.packing import RowPlan
from activations.pairs import PlainTemplate, study_texts
from activations.tokens import tokenize

STUDY = "KILLED_STUDY"  # "<folder with pairs and neutral texts>:<folder of the model>", set before the server starts
torch.set_num_threads(1)  # a process that has used several is not safe to fork
capturing.BLOCK_GROUPS = 2
if STUDY in os.environ:
    folder, tiny = (Path(p) for p in os.environ[STUDY].split(":"))
    study = study_of(folder, [base(tiny)])
    _, texts = study_texts(study, PlainTemplate())
    model = open_checkpoint(study, "base", device=torch.device("cpu"), neutral_ids=[])
    tokens = tokenize(model.tokenizer, texts, 4096, "test")


def capture_once(out: Path) -> None:
    """Capture the study into `out`, as the program does: alone in its folder, block by block."""
    with sole_writer(out.parent):
        capture(
            lambda: model,
            path=out,
            determinants={"weights": "w"},
            texts=texts,
            tokens=tokens,
            plan=RowPlan(row_budget=300, rows_per_batch=2),
            advance=lambda _n: None,
        )


def capture_starved(out: Path, file_limit: int, said: Path) -> None:
    """The same where no file may grow past `file_limit` bytes; the refusal's message goes to `said`."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))
    try:
        capture_once(out)
    except InputError as error:
        if file_limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        said.write_text(str(error), encoding="utf-8")
        sys.exit(2)
