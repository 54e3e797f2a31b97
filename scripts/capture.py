"""capture: every checkpoint's activations, one checkpoint in memory at a time."""

import json

from activations.capture import capture as capture_checkpoint
from activations.errors import InputError
from activations.model import open_checkpoint
from activations.openmodel import OpenModel
from activations.plan import choose_plan
from activations.store import ActivationStore
from scripts import instrument
from scripts.runfolder import Run


def capture(run: Run) -> None:
    """Capture what is missing, then the instrument's controls; finished checkpoints that match are left alone."""
    capture_lineage(run)
    if not run.study.lineage.edges:
        return  # nothing to judge
    try:
        inner = instrument.prepare(run)
        if inner is not None:
            capture_lineage(inner)
    except InputError as error:  # an architecture whose weights cannot be edited costs the verdicts, not the run
        instrument.refuse(run, error)


def capture_lineage(run: Run) -> None:
    """Capture every checkpoint of a lineage that is missing."""
    run.check_tokens()
    neutral = [t.ids for x, t in zip(run.texts, run.tokens, strict=True) if x.kind == "neutral"]
    root = run.study.lineage.root
    opened_root: list[OpenModel] = []  # what choosing a row plan loaded serves the root's capture too

    def open_root() -> OpenModel:
        if not opened_root:
            opened_root.append(open_checkpoint(run.study, root.name, device=run.device, neutral_ids=neutral))
        return opened_root[0]

    plan = run.recorded_plan()
    rates: dict[str, float] = {}
    if plan is None:
        plan, rates = choose_plan(
            open_root,
            run.texts,
            run.tokens,
            device=run.device,
            n_checkpoints=len(run.study.lineage.checkpoints),
        )
    run.write_lock(plan, rates)
    total = sum(len(t.ids) for t in run.tokens)
    for checkpoint in run.study.lineage.checkpoints:
        name = checkpoint.name

        def opened(name: str = name) -> OpenModel:
            chosen = open_root() if name == root.name else None
            opened_root.clear()  # one checkpoint in memory at a time
            model = chosen or open_checkpoint(run.study, name, device=run.device, neutral_ids=neutral)
            _check_shape(run, model)
            return model

        with run.progress(f"capture {name}", total) as advance:
            capture_checkpoint(
                opened,
                path=run.activations(name),
                determinants=run.determinants(checkpoint),
                texts=run.texts,
                tokens=run.tokens,
                plan=run.plan(checkpoint),
                advance=advance,
            )


def _check_shape(run: Run, model: OpenModel) -> None:
    """Refuse a checkpoint of another shape than the root's, and texts longer than its context."""
    where = f"{run.study.where}, checkpoint {model.name!r}"
    root = run.activations(run.study.lineage.root.name)
    found = {"n_layers": len(model.sites) - 1, "d_model": model.d_model}
    if model.name != run.study.lineage.root.name:
        with ActivationStore(root) as store:
            expected = {name: store.header["receipt"][name] for name in found}
        if found != expected:
            raise InputError(
                f"has {_said(found)}, but the lineage's root has {_said(expected)}",
                where=where,
                mend="a lineage holds one architecture",
            )
    longest = max(range(len(run.tokens)), key=lambda i: len(run.tokens[i].ids))
    if len(run.tokens[longest].ids) > model.context:
        raise InputError(
            f"text {run.texts[longest].text_id!r} has {len(run.tokens[longest].ids)} tokens, more than the "
            f"context of {model.context}",
            where=where,
            mend="shorten it; texts are never cut",
        )


def _said(shape: dict[str, int]) -> str:
    return json.dumps(shape).strip("{}").replace('"', "")


if __name__ == "__main__":
    from scripts.cli import main

    main("capture")
