"""Checkpoints as open models: the only place that knows TransformerLens.

A site is a TransformerLens hook name: `blocks.0.hook_resid_pre` (the embedding), then `blocks.{l}.hook_resid_post`.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from transformer_lens.model_bridge import TransformerBridge

from activations.edits import apply_edit
from activations.errors import InputError
from activations.lineage import Lineage
from activations.packing import TokenText, allowed, batch_rows, pack
from activations.pairs import PlainTemplate, Template
from activations.sources import (
    ResolvedSource,
    checkpoint_identity,
    load_tokenizer,
    load_weights,
    merge_adapter,
    resolve_source,
)
from activations.study import Study, TemplateFrom

HOOK_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}  # relative; bf16 keeps 8 bits of mantissa
LOGPROB_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.3}  # nats; a head that is scaled or capped otherwise is nats off
LOGIT_BLOCK, LOGIT_BLOCK_GPU = 1 << 21, 1 << 26  # logits held at a time: on a processor, what its cache holds
PROBE = "User: My train leaves at nine. What should I pack for a week by the sea?\nAssistant:"
PROBE_ANSWERS = (" Pack a coat and two pairs of shoes.", " Take a towel, a hat and something to read on the way.")

Hook = Callable[[str, Float[torch.Tensor, "row token d_model"]], Float[torch.Tensor, "row token d_model"] | None]


def site_names(n_layers: int) -> list[str]:
    """The residual-stream sites of a model in order of depth: the embedding, then every block's output."""
    return ["blocks.0.hook_resid_pre", *(f"blocks.{layer}.hook_resid_post" for layer in range(n_layers))]


def site_layer(site: str) -> int:
    """The 0-based block of a site; −1 for the embedding."""
    return -1 if site.endswith("hook_resid_pre") else int(site.split(".")[1])


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class OpenModel:
    """A loaded checkpoint. `receipt` says what was loaded and what was verified while loading."""

    name: str
    bridge: Any
    tokenizer: Any
    sites: tuple[str, ...]
    dtype: torch.dtype
    device: torch.device
    context: int
    receipt: dict[str, Any] = field(default_factory=dict)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.bridge.cfg.d_model)

    @contextmanager
    def hooked(self, hooks: dict[str, Hook]) -> Iterator[None]:
        """Attach one function per site; always removed again. A function that returns a tensor replaces the value."""

        def adapted(site: str, function: Hook) -> Callable[..., Any]:
            def call(value: torch.Tensor, hook: Any) -> Any:
                return function(site, value)

            return call

        with self.bridge.hooks(fwd_hooks=[(site, adapted(site, f)) for site, f in hooks.items()]):
            yield

    @torch.no_grad()
    def body(
        self,
        ids: Int[np.ndarray, "row token"],
        position_ids: Int[np.ndarray, "row token"],
        mask: Float[torch.Tensor, "row 1 q k"],
    ) -> Float[torch.Tensor, "row token d_model"]:
        """Run the model without its unembedding; returns the residual stream after the final norm."""
        return self._call(
            input_ids=torch.as_tensor(ids).to(self.device, non_blocking=True),
            position_ids=torch.as_tensor(position_ids).to(self.device, non_blocking=True),
            attention_mask=mask,
        )

    @torch.no_grad()
    def body_after(
        self,
        layer: int,
        residual: Float[torch.Tensor, "row token d_model"],
        position_ids: Int[np.ndarray, "row token"],
        mask: Float[torch.Tensor, "row 1 q k"],
    ) -> Float[torch.Tensor, "row token d_model"]:
        """As `body`, but only the blocks after `layer`, started from that block's output."""
        model = self.bridge.original_model
        path = self.bridge.adapter.component_mapping["blocks"].name
        parent = model.get_submodule(path.rpartition(".")[0])
        attribute = path.rpartition(".")[2]
        blocks = getattr(parent, attribute)
        rest = list(blocks)[layer + 1 :]
        if not rest:
            raise ValueError(f"no block comes after layer {layer}")

        def inject(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            # Some architectures scale input embeddings; the residual has to enter the block as it is.
            if args:
                return (residual, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": residual}

        handle = rest[0].register_forward_pre_hook(inject, with_kwargs=True)
        setattr(parent, attribute, torch.nn.ModuleList(rest))
        try:
            return self._call(
                inputs_embeds=residual,
                position_ids=torch.as_tensor(position_ids, device=self.device),
                attention_mask=mask,
            )
        finally:
            setattr(parent, attribute, blocks)
            handle.remove()

    @torch.no_grad()
    def log_probs(
        self, final: Float[torch.Tensor, "token d_model"], targets: Int[np.ndarray, "token"]
    ) -> Float[torch.Tensor, "token"]:
        """Log-probability (nats, float32) of each target token, from the final-normed residual of the token before it.

        The vocabulary is taken block by block, so that no row of logits is ever held whole.
        """
        head = self.bridge.original_model.get_output_embeddings()
        linear = getattr(head, "original_component", head)
        wanted = torch.as_tensor(targets).to(self.device, non_blocking=True)
        if not isinstance(linear, torch.nn.Linear):  # a quantised head: only it knows its weights
            chunks = zip(torch.split(final, 256), torch.split(wanted, 256), strict=True)
            return torch.cat([self._picked(self._logits(head(f)), w) for f, w in chunks])
        cap = LOGIT_BLOCK_GPU if self.device.type == "cuda" else LOGIT_BLOCK
        width = max(cap // max(len(final), 1), 1024)
        total = torch.full(wanted.shape, -torch.inf, device=self.device)
        picked = torch.zeros_like(total)
        for start in range(0, linear.weight.shape[0], width):
            block = slice(start, start + width)
            bias = linear.bias[block] if linear.bias is not None else None
            logits = self._logits(torch.nn.functional.linear(final, linear.weight[block], bias))
            inside = (wanted >= start) & (wanted < start + logits.shape[1])
            at = (wanted - start).clamp(0, logits.shape[1] - 1)
            picked = torch.where(inside, logits.gather(-1, at[:, None])[:, 0], picked)
            total = torch.logaddexp(total, logits.logsumexp(dim=-1))
        return picked - total

    def mask(
        self, branch: Int[np.ndarray, "row token"], last: Int[np.ndarray, "row token"]
    ) -> Float[torch.Tensor, "row 1 q k"]:
        """The additive attention mask of packed rows: 0 where a key may be seen, the dtype's minimum elsewhere."""
        seen = allowed(*(torch.as_tensor(a).to(self.device, non_blocking=True) for a in (branch, last)))[:, None]
        return torch.zeros(seen.shape, dtype=self.dtype, device=self.device).masked_fill_(
            ~seen, torch.finfo(self.dtype).min
        )

    def _logits(self, logits: torch.Tensor) -> torch.Tensor:
        cap = getattr(self.bridge.original_model.config, "final_logit_softcapping", None)
        found = logits.float()
        return cap * torch.tanh(found / cap) if cap else found

    def _picked(self, logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return logits.gather(-1, wanted[:, None])[:, 0] - logits.logsumexp(dim=-1)

    def _call(self, **inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.bridge.original_model.base_model(use_cache=False, **inputs).last_hidden_state
        return output


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
    reference, expected = _plain_residuals(plain, probe.to(device))
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
    hook_deviation, logprob_deviation = _agreement(model, probe.numpy(), reference, expected)
    for checkpoint in chain[1:]:
        if checkpoint.edit is not None:
            apply_edit(bridge, checkpoint.edit, neutral_ids, where)
    packing_deviation = _packing_agreement(model)
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
        weight_hash=_weight_hash(bridge.original_model),
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


@torch.no_grad()
def _plain_residuals(plain: Any, ids: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Block outputs through torch's own forward hooks on the untouched model, and its log-probs: golden references."""
    layers = max(
        (m for m in plain.modules() if isinstance(m, torch.nn.ModuleList)), key=len
    )  # a decoder's block list is its longest module list
    found: list[torch.Tensor] = []

    def keep(_module: Any, _args: Any, output: Any) -> None:
        found.append((output[0] if isinstance(output, tuple) else output).detach().float().clone())

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        logits = plain(input_ids=ids, use_cache=False).logits[0, :-1].float()
    finally:
        for handle in handles:
            handle.remove()
    return found, torch.log_softmax(logits, dim=-1).gather(-1, ids[0, 1:, None])[:, 0]


def _agreement(
    model: OpenModel, ids: np.ndarray, reference: list[torch.Tensor], logprobs: torch.Tensor
) -> tuple[float, float]:
    """Largest relative difference of a block's output, and largest difference of a log-prob in nats."""
    found: list[torch.Tensor] = []
    size = ids.shape[1]
    zeros = np.zeros_like(ids)
    with model.hooked({s: lambda _site, value: found.append(value.float().clone()) for s in model.sites[1:]}):
        final = model.body(ids, np.arange(size)[None], model.mask(zeros, zeros))
    if len(found) != len(reference):
        return float("inf"), float("inf")
    nats = float((model.log_probs(final[0, :-1], ids[0, 1:]) - logprobs).abs().max())
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, reference, strict=True)), nats


def _packing_agreement(model: OpenModel) -> float:
    """Largest relative difference of two packed answers' residuals from the same answers run alone."""
    texts = []
    for answer in PROBE_ANSWERS:
        ids = np.asarray(model.tokenizer(PROBE + answer).input_ids)
        texts.append(TokenText(ids=ids, read_from=len(ids) - 4, group="probe"))
    filler = np.asarray(model.tokenizer("The harbour lies north of the town.").input_ids)
    texts.append(TokenText(ids=filler, read_from=0, group="filler"))
    row = pack(texts, row_budget=4096)[0]
    kept: list[torch.Tensor] = []
    hooks: dict[str, Hook] = {s: lambda _site, value: kept.append(value.float().clone()) for s in model.sites}
    ids, positions, branch, last = batch_rows([row])
    with model.hooked(hooks):
        model.body(ids, positions, model.mask(branch, last))
    packed, worst = list(kept), 0.0
    for index, place in zip(row.texts, row.places, strict=True):
        kept.clear()
        alone = texts[index].ids[None]
        zeros = np.zeros_like(alone)
        with model.hooked(hooks):
            model.body(alone, np.arange(alone.shape[1])[None], model.mask(zeros, zeros))
        for a, b in zip(packed, kept, strict=True):
            worst = max(worst, float((a[0, torch.as_tensor(place, device=a.device)] - b[0]).norm() / b.norm()))
    return worst


def _weight_hash(model: Any) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.named_parameters(), key=lambda item: item[0]):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
