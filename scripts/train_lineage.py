"""train-lineage: post-train small checkpoints from a recipe file, as LoRA adapters with receipts. Needs `[train]`.

    python -m scripts.train_lineage studies/demo/recipe.toml

Each stage trains a LoRA on its merged parent and writes `adapters/<stage>/` beside the recipe: the adapter
(safetensors, bfloat16), and receipt.json with the stage's recipe, data hash, loss curve, held-out loss and neutral
perplexity before and after, and versions. A stage whose receipt matches its recipe and data is left as it is.
"""

import json
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load_file, save_file

from activations.artifact import content_hash, file_hash, write_json
from activations.errors import InputError
from activations.lineage import Adapter, Source
from activations.pairs import PlainTemplate, load_neutral, read_rows
from activations.sources import load_tokenizer, load_weights, merge_adapter, resolve_source
from scripts.runfolder import versions

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PROBE = "User: Which bus goes to the market?\nAssistant: The 14 does."


class Example(BaseModel):
    """One line of training data: a user message and the answer to learn."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    example_id: str
    domain: str = ""
    prompt: Annotated[str, Field(min_length=1)]
    response: Annotated[str, Field(min_length=1)]
    source: str = ""
    license: str = ""


class Stage(BaseModel):
    """One training stage: supervised fine-tuning on examples, answer tokens only."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
    parent: str
    data: str
    held_out: int = Field(ge=1)
    epochs: int = Field(ge=1)
    batch: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    rank: int = Field(ge=1)
    seed: int = 0


class Recipe(BaseModel):
    """A recipe file: the base's embedded name and the stages in order."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    base: str
    stage: list[Stage] = Field(min_length=1)


def train(path: Path) -> None:
    """Train every stage of a recipe that is not already there.

    Raises:
        InputError: a faulty recipe, data that cannot be read, or trl missing.
    """
    recipe = _read(path)
    trained: dict[str, Path] = {}
    parents: dict[str, str] = {}
    for stage in recipe.stage:
        if stage.parent != "base" and stage.parent not in trained:
            raise InputError(
                f"unknown parent {stage.parent!r}", where=f"{path}, stage {stage.name!r}", mend="name an earlier stage"
            )
        folder = path.parent / "adapters" / stage.name
        parents[stage.name] = stage.parent
        chain: list[Path] = []
        above = stage.parent
        while above != "base":
            chain.insert(0, trained[above])
            above = parents[above]
        key = _key(recipe, stage, path.parent, chain)
        if _receipt_key(folder) == key:
            print(f"{stage.name}: already trained")
        else:
            _train_stage(recipe, stage, path.parent, chain, folder, key)
        trained[stage.name] = folder


def _read(path: Path) -> Recipe:
    try:
        return Recipe.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path), mend="give a recipe file") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"not valid TOML: {error}", where=str(path), mend="mend the line named above") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(p) for p in first["loc"])
        raise InputError(first["msg"], where=f"{path}, {key}", mend="see the stages in this file") from error


def _key(recipe: Recipe, stage: Stage, home: Path, chain: list[Path]) -> str:
    parents = [file_hash(folder / "adapter_model.safetensors") for folder in chain]
    return content_hash([recipe.base, stage.model_dump(), _data_hash(home / stage.data), parents])


def _examples(path: Path) -> list[Example]:
    return [example for _, example in read_rows(path, "examples", Example)]


def _data_hash(path: Path) -> str:
    return content_hash([e.model_dump() for e in _examples(path)])


def _receipt_key(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / "receipt.json").read_text(encoding="utf-8"))["key"])
    except (OSError, ValueError, KeyError):
        return None


def _train_stage(recipe: Recipe, stage: Stage, home: Path, chain: list[Path], folder: Path, key: str) -> None:
    try:
        import datasets
        import peft
        import trl
    except ImportError as error:
        raise InputError(
            f"training needs the extra [train] ({error})", mend="pip install -c constraints.txt -e '.[train]'"
        ) from error
    resolved = resolve_source(Source(embedded=recipe.base), f"recipe base {recipe.base!r}")
    tokenizer = load_tokenizer(resolved, recipe.base)
    model = load_weights(resolved, torch.float32, recipe.base)
    probe = torch.as_tensor([tokenizer(PROBE).input_ids])
    for parent in chain:
        model, _ = merge_adapter(model, Adapter(path=parent), probe, str(parent))
    template = PlainTemplate()
    rows = [
        {"prompt": template.prompt(e.prompt), "completion": template.answer_prefix + e.response}
        for e in _examples(home / stage.data)
    ]
    every = len(rows) // stage.held_out  # spread over the file, so that every domain is held out a little
    held = [r for i, r in enumerate(rows) if i % every == 0][: stage.held_out]
    kept = [r for r in rows if r not in held]
    before = _losses(model, tokenizer, held)
    trl.trainer.sft_trainer.set_seed(stage.seed)
    with tempfile.TemporaryDirectory() as scratch:
        config = trl.SFTConfig(
            output_dir=scratch,
            per_device_train_batch_size=stage.batch,
            num_train_epochs=stage.epochs,
            learning_rate=stage.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=4,
            seed=stage.seed,
            data_seed=stage.seed,
            completion_only_loss=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
        )
        lora = peft.LoraConfig(r=stage.rank, lora_alpha=2 * stage.rank, target_modules=TARGETS, task_type="CAUSAL_LM")
        trainer = trl.SFTTrainer(
            model=model,
            args=config,
            train_dataset=datasets.Dataset.from_list(kept),
            processing_class=tokenizer,
            peft_config=lora,
        )
        trainer.train()
        curve = [round(float(e["loss"]), 4) for e in trainer.state.log_history if "loss" in e]
        made = Path(scratch) / "adapter"
        trainer.model.save_pretrained(made)
        weights = {k: v.to(torch.bfloat16) for k, v in load_file(made / "adapter_model.safetensors").items()}
        save_file(weights, made / "adapter_model.safetensors", metadata={"format": "pt"})
        about = json.loads((made / "adapter_config.json").read_text(encoding="utf-8"))
        about["base_model_name_or_path"] = recipe.base  # not the folder of the machine it was trained on
        write_json(made / "adapter_config.json", about)
        # What is reported is measured on the adapter as it was saved: bfloat16, merged.
        plain = load_weights(resolved, torch.float32, recipe.base)
        for adapter in (*chain, made):
            plain, _ = merge_adapter(plain, Adapter(path=adapter), probe, str(adapter))
        after = _losses(plain, tokenizer, held)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copyfile(made / name, folder / name)
    receipt = {
        "key": key,
        "data_hash": _data_hash(home / stage.data),
        "stage": stage.model_dump(),
        "examples": len(kept),
        "loss_curve": curve,
        "held_out_loss": {"before": before["held_out"], "after": after["held_out"]},
        "neutral_perplexity": {"before": before["perplexity"], "after": after["perplexity"]},
        "versions": versions() | {"trl": trl.__version__},
    }
    write_json(folder / "receipt.json", receipt)
    print(
        f"{stage.name}: held-out loss {before['held_out']:.3f} → {after['held_out']:.3f}, "
        f"neutral perplexity {before['perplexity']:.1f} → {after['perplexity']:.1f}"
    )


@torch.no_grad()
def _losses(model: Any, tokenizer: Any, held: list[dict[str, str]]) -> dict[str, float]:
    """Mean answer loss (nats a token) on held-out examples, and perplexity on the first 64 neutral texts."""
    model = model.eval()
    losses = []
    for row in held:
        start = len(tokenizer(row["prompt"]).input_ids)
        losses.append(_loss(model, torch.as_tensor([tokenizer(row["prompt"] + row["completion"]).input_ids]), start))
    neutral = [
        _loss(model, torch.as_tensor([tokenizer(t.text).input_ids]), 1) for t in load_neutral("builtin:neutral", 64)
    ]
    return {
        "held_out": round(sum(losses) / len(losses), 4),
        "perplexity": round(float(torch.tensor(neutral).mean().exp()), 3),
    }


def _loss(model: Any, ids: torch.Tensor, start: int) -> float:
    ids = ids.to(model.device)
    logprob = model(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
    return -float(logprob.gather(-1, ids[0, 1:, None])[start - 1 :].mean())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m scripts.train_lineage RECIPE.toml")
    try:
        train(Path(sys.argv[1]))
    except InputError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
