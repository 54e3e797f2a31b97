"""Is a trained checkpoint what it claims to be? Losses, neutral perplexity, margins, sampled reward."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from activations.pairs import NeutralText, PairSet, PlainTemplate
from scripts.training.corpora import Example, rendered
from scripts.training.rewards import REWARDS

ROWS = 16  # sampled completions a batch
NEUTRAL = 64


@torch.no_grad()
def held_out_loss(model: Any, tokenizer: Any, held: Sequence[Example]) -> float:
    """Mean loss (nats a token) of held-out examples: of the answer's tokens, or of a document's."""
    losses = []
    for example in held:
        row = rendered(example)
        if "text" in row:
            losses.append(-float(_token_logprobs(model, tokenizer, row["text"])[0].mean()))
        else:
            losses.append(-_answer_logprob(model, tokenizer, row["prompt"], row["completion"]))
    return round(float(np.mean(losses)), 4)


@torch.no_grad()
def neutral_perplexity(model: Any, tokenizer: Any, neutral: Sequence[NeutralText]) -> float:
    """exp of the mean over the first 64 neutral texts of their mean loss."""
    losses = [-float(_token_logprobs(model, tokenizer, t.text)[0].mean()) for t in neutral[:NEUTRAL]]
    return round(float(np.exp(np.mean(losses))), 3)


@torch.no_grad()
def margins(model: Any, tokenizer: Any, pairs: PairSet) -> list[float]:
    """Log-prob a token of the positive answer over the negative one, pair by pair, in the plain template."""
    template = PlainTemplate()
    found = []
    for pair in pairs.pairs:
        prompt = template.prompt(pair.prompt)
        sides = [
            _answer_logprob(model, tokenizer, prompt, template.answer_prefix + side)
            for side in (pair.positive, pair.negative)
        ]
        found.append(round(sides[0] - sides[1], 5))
    return found


@torch.no_grad()
def sampled_reward(
    model: Any, tokenizer: Any, held: Sequence[Example], reward: str, *, group: int, max_new_tokens: int, seed: int
) -> float:
    """Mean reward of `group` completions of each held-out prompt, sampled at temperature 1 with a seed of their own."""
    template, judge = PlainTemplate(), REWARDS[reward]
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    jobs = [example for example in held for _ in range(group)]
    scores = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(jobs), ROWS):
            batch = jobs[start : start + ROWS]
            inputs = tokenizer([template.prompt(e.prompt) for e in batch], return_tensors="pt", padding=True)
            made = model.generate(
                **inputs.to(model.device),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=max_new_tokens,
                pad_token_id=tokenizer.pad_token_id,
            )
            texts = tokenizer.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            scores += [judge(text, example.check) for text, example in zip(texts, batch, strict=True)]
    return round(float(np.mean(scores)), 4)


def _answer_logprob(model: Any, tokenizer: Any, prompt: str, answer: str) -> float:
    """Mean log-prob of the tokens that begin inside the answer."""
    logprobs, starts = _token_logprobs(model, tokenizer, prompt + answer)
    return float(logprobs[starts >= len(prompt)].mean())


def _token_logprobs(model: Any, tokenizer: Any, text: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-prob of every token after the first, and the character each starts at."""
    encoded = tokenizer(text, return_offsets_mapping=True)
    ids = torch.as_tensor([encoded["input_ids"]], device=model.device)
    logprob = model(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
    starts = torch.as_tensor([start for start, _ in encoded["offset_mapping"]][1:])
    return logprob.gather(-1, ids[0, 1:, None])[:, 0].cpu(), starts
