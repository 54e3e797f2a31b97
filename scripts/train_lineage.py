"""train-lineage: post-train small checkpoints from a recipe file, as LoRA adapters with receipts. Needs `[train]`.

    python -m scripts.train_lineage studies/lineage/recipe.toml --data FOLDER

Each stage trains a LoRA on its merged parent and writes `adapters/<stage>/` beside the recipe: the adapter
(safetensors, bfloat16) and receipt.json with the stage's recipe, data hash, curves, checks and versions. A stage whose
receipt matches its recipe and data is left as it is; one that was interrupted goes on from its last saved step. At the
end the receipts are printed as a table, and the exit status is 1 where a checkpoint is not what it claims to be.
"""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from safetensors.torch import load_file, save_file

from activations.artifact import content_hash, file_hash, write_json
from activations.errors import InputError
from activations.lineage import Adapter, Source
from activations.pairs import load_neutral, load_pairs
from activations.sources import ResolvedSource, load_tokenizer, load_weights, merge_adapter, resolve_source
from scripts.runfolder import versions
from scripts.training.corpora import Drawn, draw, lengths
from scripts.training.measures import held_out_loss, margins, neutral_perplexity, sampled_reward
from scripts.training.receipts import contrasts_table, receipts_table, rewards_table
from scripts.training.recipe import Recipe, Stage, read_recipe
from scripts.training.trainers import Trained, train_lora

PROBE = "User: Which bus goes to the market?\nAssistant: The 14 does."
EVALUATION_SEED = 1_000_003


def train(path: Path, data: Path | None = None, only: list[str] | None = None) -> list[dict[str, Any]]:
    """Train every stage of a recipe that is not already there; returns all receipts, in order.

    Args:
        path: the recipe.
        data: a folder with the public files; without one they are fetched.
        only: the stages wanted (their parents must be trained already), or None for all.

    Raises:
        InputError: a faulty recipe, data that cannot be read, or trl missing.
    """
    recipe = read_recipe(path)
    home = path.parent
    base = Source(embedded=recipe.base.embedded, path=home / recipe.base.path if recipe.base.path else None)
    resolved = resolve_source(base, f"{path}, base")
    tokenizer = load_tokenizer(resolved, f"{path}, base")
    for stage in recipe.stage:
        if only is not None and stage.name not in only:
            continue
        drawn = draw(recipe, stage, home, data, tokenizer)
        parents = [file_hash(_adapter(home, s) / "adapter_model.safetensors") for s in recipe.chain(stage)]
        key = content_hash([resolved.identity, recipe.autocast, stage.model_dump(), drawn.identity, parents])
        if (_receipt(home, stage) or {}).get("key") != key:
            print(f"{stage.name}: {len(drawn.train)} examples", flush=True)
            _train_stage(recipe, stage, home, resolved, drawn, key)
    return [r for stage in recipe.stage if (r := _receipt(home, stage)) is not None]


def _train_stage(recipe: Recipe, stage: Stage, home: Path, resolved: ResolvedSource, drawn: Drawn, key: str) -> None:
    began = time.monotonic()
    tokenizer = load_tokenizer(resolved, stage.name)
    chain = [_adapter(home, s) for s in recipe.chain(stage)]
    scratch = home / "adapters" / f".training-{stage.name}"
    model = _merged(resolved, chain, tokenizer)
    before = _measure(recipe, stage, home, model, tokenizer, drawn)
    trained = train_lora(model, tokenizer, stage, drawn.train, scratch, key, recipe.autocast)
    made = scratch / "adapter"
    _save(trained, made)
    # What is reported is measured on the adapter as it was saved: bfloat16, merged.
    after = _measure(recipe, stage, home, _merged(resolved, [*chain, made], tokenizer), tokenizer, drawn)
    sizes = np.asarray([lengths(e, tokenizer) for e in drawn.train])
    receipt = {
        "key": key,
        "stage": stage.model_dump(),
        "data_hash": drawn.identity,
        "examples": len(drawn.train),
        "tokens": {"prompt_or_document": int(sizes[:, 0].sum()), "answer": int(sizes[:, 1].sum())},
        "steps": trained.steps,
        "loss_curve": trained.loss,
        "reward_curve": trained.reward,
        "reward_spread_curve": trained.reward_spread,
        "groups_without_spread": round(float(np.mean(trained.flat_groups)), 4) if trained.flat_groups else None,
        "before": before,
        "after": after,
        "checks": _checks(recipe, stage, before, after),
        "minutes": round((time.monotonic() - began) / 60, 1),
        "versions": versions("trl"),
    }
    folder = _adapter(home, stage)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(made / name, folder / name)
    write_json(folder / "receipt.json", receipt)
    shutil.rmtree(scratch)


def _merged(resolved: ResolvedSource, chain: list[Path], tokenizer: Any) -> Any:
    model = load_weights(resolved, torch.float32, "base")
    probe = torch.as_tensor([tokenizer(PROBE).input_ids])
    for folder in chain:
        model, _ = merge_adapter(model, Adapter(path=folder), probe, str(folder))
    return model


def _measure(recipe: Recipe, stage: Stage, home: Path, model: Any, tokenizer: Any, drawn: Drawn) -> dict[str, Any]:
    found: dict[str, Any] = {
        "neutral_perplexity": neutral_perplexity(model, tokenizer, load_neutral(_place(recipe.neutral, home)))
    }
    if stage.reward is not None:
        found["reward"] = sampled_reward(
            model,
            tokenizer,
            drawn.held_out,
            stage.reward,
            group=stage.group,
            max_new_tokens=stage.max_new_tokens,
            seed=EVALUATION_SEED,
        )
    else:
        found["held_out_loss"] = held_out_loss(model, tokenizer, drawn.held_out)
    if recipe.manipulation_pairs is not None:
        found["margins"] = margins(model, tokenizer, load_pairs(_place(recipe.manipulation_pairs, home)))
    return found


def _checks(recipe: Recipe, stage: Stage, before: dict[str, Any], after: dict[str, Any]) -> dict[str, bool]:
    ratio = after["neutral_perplexity"] / before["neutral_perplexity"]
    checks = {"perplexity_kept": ratio <= recipe.max_perplexity_ratio}
    if stage.kind == "reward":
        return checks | {"reward_rose": after["reward"] > before["reward"]}
    return checks | {"loss_fell": after["held_out_loss"] < before["held_out_loss"]}


def _save(trained: Trained, folder: Path) -> None:
    trained.model.save_pretrained(folder)
    weights = {k: v.to(torch.bfloat16) for k, v in load_file(folder / "adapter_model.safetensors").items()}
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    about = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    about["base_model_name_or_path"] = ""  # not the folder of the machine it was trained on
    write_json(folder / "adapter_config.json", about)


def _place(reference: str, home: Path) -> str | Path:
    return reference if reference.startswith("builtin:") else home / reference


def _adapter(home: Path, stage: Stage) -> Path:
    return home / "adapters" / stage.name


def _receipt(home: Path, stage: Stage) -> dict[str, Any] | None:
    try:
        return dict(json.loads((_adapter(home, stage) / "receipt.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def main(
    recipe: Annotated[Path, typer.Argument(help="The recipe file.")],
    data: Annotated[
        Path | None, typer.Option(help="A folder with the recipe's public files; else they are fetched.")
    ] = None,
    stage: Annotated[list[str] | None, typer.Option(help="Only this stage; may be given again.")] = None,
) -> None:
    """Post-train the checkpoints of a recipe and print their receipts."""
    try:
        receipts = train(recipe, data, stage)
        contrasts = contrasts_table(read_recipe(recipe), receipts)
    except InputError as problem:
        print(f"error: {problem}", file=sys.stderr)
        raise typer.Exit(2) from problem
    print(receipts_table(receipts))
    if any(r["stage"]["kind"] == "reward" for r in receipts):
        print(f"\n{rewards_table(receipts)}")
    if contrasts.count("\n") > 1:
        print(f"\n{contrasts}")
    if not all(all(r["checks"].values()) for r in receipts):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
