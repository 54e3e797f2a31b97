"""generate: a checkpoint's answers to a prompt, as they are and with its direction added at some doses."""

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from activations import model as models
from activations.errors import InputError
from activations.pairs import Text
from activations.tokens import tokenize
from analysis.reading_page import visible
from probes.generation import sample_answers
from probes.interventions import Add
from scripts.reopen import described, open_model, pick, reopened


def generate(
    folder: Path,
    prompt: str,
    alphas: Sequence[float],
    *,
    checkpoint: str,
    layer: int | None,
    domain: str,
    study: Path | None,
    samples: int,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    device: torch.device,
    console: Console,
) -> None:
    """Print the answers at dose 0, then at each dose of `alphas` in units of τ.

    Raises:
        InputError: no such run, checkpoint, layer or domain, a prompt that is empty or too long, or several samples
            at temperature 0.
    """
    if temperature == 0 and samples > 1:
        raise InputError("is 0: all samples would be the same", where="--temperature", mend="raise it, or ask for one")
    if not prompt.strip():
        raise InputError("holds no word", where="--prompt", mend="give it some text")
    name, direction = pick(folder, checkpoint, layer, domain)
    run = reopened(folder, study, name, device=device)
    template = models.study_template(run.study)
    asked = Text(
        kind="prompt",
        text_id="--prompt",
        text=template.prompt(prompt),
        group="--prompt",
        special_tokens=template.special_tokens,
    )
    model, _ = open_model(run, name)
    ids = tokenize(model.tokenizer, [asked], model.context, "--prompt")[0].ids
    said = f"{name}, with {described(direction)} added from the last prompt token on"
    console.print(said, markup=False, highlight=False, soft_wrap=True)
    for alpha in [0.0, *(a for a in alphas if a != 0)]:
        answers = sample_answers(
            model,
            [ids] * samples,
            interventions=[Add(direction=direction, alpha=alpha)] if alpha else [],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
        )
        for number, answer in enumerate(answers, start=1):
            which = f", sample {number}" if samples > 1 else ""
            ended = "" if len(answer) < max_new_tokens else f", cut at {max_new_tokens} tokens"
            console.print(f"\nα {alpha:+g} τ{which}{ended}", style="bold", markup=False, highlight=False)
            text = model.tokenizer.decode(answer, skip_special_tokens=True).strip()
            for line in text.split("\n"):  # line feeds are the answer's own; other controls are made visible
                console.print(visible(line), markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    from scripts.cli import main

    main("generate")
