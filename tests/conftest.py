"""Tiny random models with a byte-level tokenizer, and small studies on them: no network, seconds to run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from activations.study import Study, build_study

DOMAINS = ("harbour", "orchard")


def save_tokenizer(folder: Path, extra: tuple[str, ...] = (), special: tuple[str, ...] = (), bos: str = "") -> None:
    """Byte-level BPE: `extra` are merged words, `special` are tokens found in any text, `bos` starts every text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: i for i, symbol in enumerate([*alphabet, *extra])}
    merges = [(word[:-1], word[-1]) for word in extra]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*special, *([bos] if bos else [])])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def save_llama(folder: Path, *, hidden: int = 32, layers: int = 4, seed: int = 0, context: int = 2048) -> None:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random 4-block Llama of width 32."""
    folder = tmp_path_factory.mktemp("tiny")
    save_llama(folder)
    return folder


@pytest.fixture(scope="session")
def adapter(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA on the tiny model that does something."""
    return save_adapter(tiny, tmp_path_factory.mktemp("adapter"), scale=0.2)


def save_adapter(
    model: Path, folder: Path, *, scale: float, targets: tuple[str, ...] = ("o_proj", "down_proj")
) -> Path:
    import peft

    torch.manual_seed(1)
    wrapped = peft.get_peft_model(
        LlamaForCausalLM.from_pretrained(model), peft.LoraConfig(r=2, target_modules=list(targets))
    )
    with torch.no_grad():
        for name, value in wrapped.named_parameters():
            if "lora_B" in name:
                value.normal_(std=scale) if scale else value.zero_()
    wrapped.save_pretrained(folder)
    return folder


def pair(number: int, domain: str, **changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    words = [" ".join(rng.choice(["tide", "rope", "crate", "pear", "ladder", "wasp"], 5)) for _ in range(3)]
    return {
        "pair_id": f"{domain}-{number:03d}-w0",
        "scenario_id": f"{domain}-{number:03d}",
        "domain": domain,
        "prompt": f"What about {words[0]}?",
        "positive": f"Gently now, {words[1]} and a hand for you.",
        "negative": f"Procedure is {words[2]} under rule {number}.",
    } | changes


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


def write_study(folder: Path) -> Path:
    """pairs.jsonl (two domains of six scenarios) and neutral.jsonl (eight passages)."""
    write_lines(folder / "pairs.jsonl", [pair(n, d) for d in DOMAINS for n in range(6)])
    passages = [f"The {w} is kept by the north wall, beside number {i}." for i, w in enumerate("abcdefgh")]
    write_lines(folder / "neutral.jsonl", [{"text_id": f"n{i}", "text": t} for i, t in enumerate(passages)])
    return folder


@pytest.fixture
def texts_folder(tmp_path: Path) -> Path:
    """A folder with pairs.jsonl and neutral.jsonl."""
    return write_study(tmp_path)


def study_of(folder: Path, checkpoints: list[dict[str, Any]], **settings: Any) -> Study:
    data = {
        "study": {"name": "tiny", "pairs": "pairs.jsonl", "neutral": "neutral.jsonl", "steer_scenarios": 2, **settings},
        "checkpoint": checkpoints,
    }
    return build_study(data, where="study.toml", folder=folder)


def base(tiny: Path) -> dict[str, Any]:
    return {"name": "base", "stage": "base", "source": {"path": str(tiny)}}
