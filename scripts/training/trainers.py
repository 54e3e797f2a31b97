"""The two trainings, by trl: supervised (documents or answers) and GRPO, both as a LoRA, interruptible, seeded."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from activations.artifact import write_json
from activations.errors import InputError
from scripts.training.corpora import Example, rendered
from scripts.training.recipe import Stage
from scripts.training.rewards import REWARDS

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SAVE_STEPS = 20
WARMUP = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A trained LoRA (in `model`) and its curves, one value a step."""

    model: Any
    steps: int
    loss: list[float] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    reward_spread: list[float] = field(default_factory=list)
    flat_groups: list[float] = field(default_factory=list)


def train_lora(
    model: Any, tokenizer: Any, stage: Stage, examples: list[Example], scratch: Path, key: str, autocast: str
) -> Trained:
    """Train a stage's LoRA on a merged parent, going on from the last saved step in `scratch` where its key agrees.

    Raises:
        InputError: trl is not installed.
    """
    try:
        import datasets
        import peft
        import torch
        import transformers
        import trl
    except ImportError as error:
        raise InputError(
            f"training needs the extra [train] ({error})", mend="pip install -c constraints.txt -e '.[train]'"
        ) from error
    transformers.set_seed(stage.seed)
    if _key_of(scratch) != key:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        write_json(scratch / "key.json", {"key": key})
    if tokenizer.eos_token is None:
        raise InputError(
            "its tokenizer has no end-of-text token, so no answer would end", where=stage.name, mend="give it one"
        )
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    common: dict[str, Any] = {
        "output_dir": str(scratch / "steps"),
        "learning_rate": stage.learning_rate,
        "warmup_steps": WARMUP,
        "seed": stage.seed,
        "data_seed": stage.seed,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": SAVE_STEPS,
        "save_total_limit": 2,
        "report_to": "none",
        "gradient_checkpointing": False,
        "bf16": autocast == "bfloat16",
        "use_cpu": not torch.cuda.is_available(),
    }
    lora = peft.LoraConfig(r=stage.rank, lora_alpha=2 * stage.rank, target_modules=TARGETS, task_type="CAUSAL_LM")
    rows = datasets.Dataset.from_list(
        [rendered(e) | ({"check": list(e.check)} if stage.kind == "reward" else {}) for e in examples]
    )
    trainer: Any
    if stage.kind == "reward":
        assert stage.reward is not None  # the recipe reader asks for both
        assert stage.steps is not None
        trainer = trl.GRPOTrainer(
            model=model,
            reward_funcs=_reward(REWARDS[stage.reward]),
            args=trl.GRPOConfig(
                **common,
                max_steps=stage.steps,
                lr_scheduler_type="constant_with_warmup",
                per_device_train_batch_size=stage.batch * stage.group,
                num_generations=stage.group,
                max_completion_length=stage.max_new_tokens,
                temperature=1.0,
                beta=0.0,
            ),
            train_dataset=rows,
            processing_class=tokenizer,
            peft_config=lora,
        )
    else:
        trainer = trl.SFTTrainer(
            model=model,
            args=trl.SFTConfig(
                **common,
                num_train_epochs=stage.epochs,
                per_device_train_batch_size=stage.batch,
                lr_scheduler_type="cosine",
                completion_only_loss=stage.kind == "answers",
                dataset_text_field="text",
                train_sampling_strategy="group_by_length",
            ),
            train_dataset=rows,
            processing_class=tokenizer,
            peft_config=lora,
        )
    trainer.train(
        resume_from_checkpoint=transformers.trainer_utils.get_last_checkpoint(str(scratch / "steps"))
        if (scratch / "steps").is_dir()
        else None
    )
    log = trainer.state.log_history

    def curve(name: str) -> list[float]:
        return [round(float(e[name]), 4) for e in log if name in e]

    return Trained(
        model=trainer.model,
        steps=int(trainer.state.global_step),
        loss=curve("loss"),
        reward=curve("reward"),
        reward_spread=curve("reward_std"),
        flat_groups=curve("frac_reward_zero_std"),
    )


def _reward(judge: Callable[..., float]) -> Callable[..., list[float]]:
    def reward(completions: list[str], check: list[list[str]], **_: Any) -> list[float]:
        return [judge(text, known) for text, known in zip(completions, check, strict=True)]

    reward.__name__ = judge.__name__
    return reward


def _key_of(scratch: Path) -> str | None:
    try:
        return str(json.loads((scratch / "key.json").read_text(encoding="utf-8"))["key"])
    except (OSError, ValueError, KeyError):
        return None
