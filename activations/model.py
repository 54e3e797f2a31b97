"""Checkpoints as open models: the only place that knows TransformerLens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformer_lens.model_bridge import TransformerBridge

from activations.edits import apply_edit
from activations.errors import InputError
from activations.faithful import (
    HOOK_TOLERANCE,
    LOGPROB_TOLERANCE,
    PROBE,
    PROBE_ANSWERS,
    hook_agreement,
    packing_agreement,
    plain_reference,
    weight_hash,
)
from activations.lineage import Lineage
from activations.openmodel import OpenModel, site_names
from activations.pairs import PlainTemplate, Template
from activations.sources import (
    ResolvedSource,
    checkpoint_identity,
    config_type,
    load_tokenizer,
    load_weights,
    merge_adapter,
    resolve_source,
)
from activations.study import Study, TemplateFrom


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatTemplate:
    """A checkpoint's own chat template; the answer follows its generation prompt without a space."""

    tokenizer: Any
    answer_prefix: str = ""
    special_tokens: bool = False  # a chat template writes BOS itself; a second one would be another text

    def prompt(self, user: str, system: str = "") -> str:
        """The text before the answer."""
        head = [{"role": "system", "content": system}] if system.strip() else []
        return str(
            self.tokenizer.apply_chat_template(
                [*head, {"role": "user", "content": user}], tokenize=False, add_generation_prompt=True
            )
        )


def study_template(study: Study) -> Template:
    """The one rendering of a study, for every checkpoint of its lineage.

    Raises:
        InputError: the named checkpoint has no chat template.
    """
    choice = study.settings.template
    if not isinstance(choice, TemplateFrom):
        return PlainTemplate()
    where = f"{study.where}, study.template.from"
    tokenizer = load_tokenizer(_resolve(study.lineage, choice.from_), where)
    if not tokenizer.chat_template:
        raise InputError(
            f"checkpoint {choice.from_!r} has no chat template", where=where, mend='use template = "plain"'
        )
    return ChatTemplate(tokenizer=tokenizer)


def study_tokenizer(study: Study, name: str) -> Any:
    """The tokenizer of a checkpoint's source."""
    return load_tokenizer(_resolve(study.lineage, name), f"{study.where}, checkpoint {name!r}")


def weights_identity(study: Study, name: str) -> str:
    """Content hash of all that determines a checkpoint's weights, without loading them."""
    return checkpoint_identity(study.lineage, name, _resolve(study.lineage, name))


def model_type(study: Study, name: str) -> str:
    """The architecture of a checkpoint as its transformers config names it ("llama", "gpt2")."""
    return config_type(_resolve(study.lineage, name), f"{study.where}, checkpoint {name!r}")


def default_device() -> torch.device:
    """The accelerator torch sees, else the processor."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")


def open_checkpoint(study: Study, name: str, *, device: torch.device, neutral_ids: Sequence[np.ndarray]) -> OpenModel:
    """Load a checkpoint: its source, then every adapter (merged) and edit down to it, hooked and verified.

    Args:
        study: the study whose lineage holds the checkpoint.
        name: the checkpoint.
        device: where to put it.
        neutral_ids: token ids of the study's neutral texts, for edits that are centred on them.

    Raises:
        InputError: weights that cannot be loaded, an adapter that changes no logit, an edit that does not fit, or a
            model whose hooked or packed residuals differ from plain forward passes.
    """
    chain = study.lineage.chain(name)
    where = f"{study.where}, checkpoint {name!r}"
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[study.settings.dtype]
    resolved = _resolve(study.lineage, name)
    tokenizer = load_tokenizer(resolved, where)
    plain = load_weights(resolved, dtype, where).to(device)
    probe = torch.as_tensor([tokenizer(PROBE + PROBE_ANSWERS[0]).input_ids])
    changes = []
    for checkpoint in chain[1:]:
        if checkpoint.adapter is not None:
            if any(c.edit is not None and c.edit.kind != "identity" for c in chain[: chain.index(checkpoint)]):
                raise InputError(
                    "an adapter on an edited parent is not supported", where=where, mend="use the unedited parent"
                )
            plain, change = merge_adapter(plain, checkpoint.adapter, probe, where)
            changes.append({"checkpoint": checkpoint.name, "largest_logit_change": change})
    plain.requires_grad_(False)
    reference, expected = plain_reference(plain, probe.to(device))
    bridge = TransformerBridge.boot_transformers(
        resolved.place, hf_model=plain, tokenizer=tokenizer, dtype=dtype, device=str(device)
    )
    sites = tuple(site_names(bridge.cfg.n_layers))
    model = OpenModel(
        name=name,
        bridge=bridge,
        tokenizer=tokenizer,
        sites=sites,
        dtype=dtype,
        device=device,
        context=int(getattr(plain.config, "max_position_embeddings", 0) or 1 << 30),
    )
    hook_deviation, logprob_deviation = hook_agreement(model, probe.numpy(), reference, expected)
    for checkpoint in chain[1:]:
        if checkpoint.edit is not None:
            apply_edit(bridge, checkpoint.edit, neutral_ids, probe, where)
    bridge.original_model.requires_grad_(False)
    packing_deviation = packing_agreement(model)
    residual_limit, nats = HOOK_TOLERANCE[study.settings.dtype], LOGPROB_TOLERANCE[study.settings.dtype]
    for what, deviation, limit in (
        ("hooked residuals differ from plain forward passes, relatively,", hook_deviation, residual_limit),
        ("packed residuals differ from plain forward passes, relatively,", packing_deviation, residual_limit),
        ("log-probs differ from the whole model's, in nats,", logprob_deviation, nats),
    ):
        if not deviation <= limit:
            raise InputError(
                f"{what} by {deviation:.1e} (limit {limit:.0e})",
                where=where,
                mend="this architecture cannot be captured faithfully yet; please report it",
            )
    model.receipt.update(
        source_hash=resolved.identity,
        revision=resolved.revision or "",
        weight_hash=weight_hash(bridge.original_model),
        dtype=study.settings.dtype,
        n_layers=int(bridge.cfg.n_layers),
        d_model=model.d_model,
        adapters=changes,
        hook_deviation=hook_deviation,
        packing_deviation=packing_deviation,
        logprob_deviation=logprob_deviation,
    )
    return model


def _resolve(lineage: Lineage, name: str) -> ResolvedSource:
    origin = lineage.chain(name)[0]
    assert origin.source is not None  # what a chain starts with
    return resolve_source(origin.source, f"{lineage.where}, checkpoint {origin.name!r}, source")
