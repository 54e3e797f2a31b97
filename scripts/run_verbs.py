"""The verbs that use a finished run, or need none."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from scripts.options import AtLayer, Device, OfCheckpoint, OfDomain, OtherStudy, Quiet, RunPath, chosen_device


def export(
    run: RunPath,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The file to write: .gguf for llama.cpp, else safetensors.")
    ],
    checkpoint: OfCheckpoint = "",
    layer: AtLayer = None,
    domain: OfDomain = "",
    study: OtherStudy = None,
) -> None:
    """Write one direction of a run as a safetensors file, or as a llama.cpp control vector of length τ (.gguf)."""
    from scripts.export import export as verb

    verb(run, checkpoint, layer, domain, out, study, Console())


def read(
    run: RunPath,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text; `-` reads the standard input.")] = "",
    file: Annotated[Path | None, typer.Option("--file", help="Read the text of a file.", show_default=False)] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="Read TEXT as the answer to this, in the study's template.", show_default=False),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page of it here too.", show_default=False)] = None,
    checkpoint: OfCheckpoint = "",
    layer: AtLayer = None,
    domain: OfDomain = "",
    study: OtherStudy = None,
    device: Device = None,
) -> None:
    """Colour every token of a text by its projection on a run's direction, on the scale of neutral text."""
    from scripts.read import given_text
    from scripts.read import read as verb

    verb(
        run,
        given_text(text, file),
        prompt=prompt,
        html=html,
        checkpoint=checkpoint,
        layer=layer,
        domain=domain,
        study=study,
        device=chosen_device(device),
        console=Console(),
    )


def generate(
    run: RunPath,
    prompt: Annotated[str, typer.Option(help="What the model is asked, in the study's template.")],
    alpha: Annotated[
        list[float] | None, typer.Option(help="Dose in units of τ; once for each. 0 comes first anyway.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Answers a dose.")] = 1,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Where an answer that does not end is cut.")] = 80,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")] = 0.7,
    seed: Annotated[int, typer.Option(min=0, help="The same for every dose.")] = 0,
    checkpoint: OfCheckpoint = "",
    layer: AtLayer = None,
    domain: OfDomain = "",
    study: OtherStudy = None,
    device: Device = None,
) -> None:
    """Let a checkpoint answer a prompt, without steering and with its direction added at each dose."""
    from scripts.generate import generate as verb

    verb(
        run,
        prompt,
        alpha or [],
        checkpoint=checkpoint,
        layer=layer,
        domain=domain,
        study=study,
        samples=samples,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        device=chosen_device(device),
        console=Console(),
    )


def judge(
    run: RunPath,
    url: Annotated[str, typer.Option(help="An OpenAI-compatible endpoint: what comes before /chat/completions.")],
    model: Annotated[str, typer.Option(help="The name the endpoint knows the judge by.")],
    key_env: Annotated[
        str | None,
        typer.Option(
            help="Environment variable that holds the API key, such as OPENAI_API_KEY. Default: no key is sent.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Questions to ask this time. Default: all.", show_default=False)
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Let another model rate the sampled answers' compassion from 1 to 5. Needs the extra `judge`."""
    from scripts.judge import judge as verb

    verb(run, url, model, key_env, limit, Console(quiet=quiet, width=None if sys.stdout.isatty() else 110))


def audit(
    pairs: Annotated[list[str], typer.Argument(metavar="PAIRS...", help="Pair files, folders, or builtin:NAME.")],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything the audit found here.", show_default=False)
    ] = None,
    feature_limit: Annotated[float, typer.Option(help="AUROC of a single feature, over all domains.")] = 0.60,
    domain_limit: Annotated[float, typer.Option(help="AUROC of a single feature in one domain.")] = 0.65,
    tfidf_limit: Annotated[float, typer.Option(help="AUROC of TF-IDF or naive Bayes on held-out scenarios.")] = 0.75,
    quiet: Quiet = False,
) -> None:
    """Say how well surface features tell the sides of pairs apart. Exits with 1 where a limit is passed."""
    from probes.audit import AuditLimits
    from scripts.audit import audit as verb

    limits = AuditLimits(feature=feature_limit, feature_domain=domain_limit, tfidf=tfidf_limit)
    passed = verb(pairs, limits, json_file, Console(quiet=quiet))
    raise typer.Exit(0 if passed else 1)


def check(
    run: RunPath,
    policy: Annotated[Path, typer.Option(help="policy.toml; docs/verdicts.md says what it holds.")],
    quiet: Quiet = False,
) -> None:
    """Hold a run's verdicts against a policy. Exits with 1 where one breaks it."""
    from scripts.check import check as verb

    raise typer.Exit(0 if verb(run, policy, Console(quiet=quiet, width=110)) else 1)


def calibrate(
    run: Annotated[
        Path | None,
        typer.Option(help="Plant effects in the residuals of this run's first step too.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for calibration.csv. Default: RUN/tables.", show_default=False)
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Every truth, a thousand verdicts a cell; an hour.")] = False,
    quiet: Quiet = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; results do not depend on it.")] = None,
) -> None:
    """Measure the instrument's own error rates on steps whose truth is known. Exits with 1 where one is too high."""
    from scripts.calibrate import calibrate as verb

    held = verb(
        run, out, full=full, jobs=jobs, console=Console(quiet=quiet, width=None if sys.stdout.isatty() else 180)
    )
    raise typer.Exit(0 if held else 1)


def doctor() -> None:
    """Say what is installed, which device is used, and whether the embedded model loads."""
    from scripts.doctor import doctor as verb

    verb(Console())
