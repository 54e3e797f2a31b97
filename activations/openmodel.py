"""An open model: its residual stream behind named hooks, its body without the unembedding, log-probs from there.

A site is a TransformerLens hook name: `blocks.0.hook_resid_pre` (the embedding), then `blocks.{l}.hook_resid_post`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from activations.packing import allowed

LOGIT_BLOCK, LOGIT_BLOCK_GPU = 1 << 21, 1 << 26  # logits held at a time: on a processor, what its cache holds

Hook = Callable[[str, Float[torch.Tensor, "row token d_model"]], Float[torch.Tensor, "row token d_model"] | None]


def site_names(n_layers: int) -> list[str]:
    """The residual-stream sites of a model in order of depth: the embedding, then every block's output."""
    return ["blocks.0.hook_resid_pre", *(f"blocks.{layer}.hook_resid_post" for layer in range(n_layers))]


def site_layer(site: str) -> int:
    """The 0-based block of a site; −1 for the embedding."""
    return -1 if site.endswith("hook_resid_pre") else int(site.split(".")[1])


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class OpenModel:
    """A loaded checkpoint. `receipt` says what was loaded and what was verified while loading.

    Its weights ask for no gradient, so that passes build no graph, unless a hook puts in a residual that asks for one.
    """

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

    def extend(
        self,
        ids: Int[np.ndarray, "row new"],
        position_ids: Int[np.ndarray, "row new"],
        seen: Int[np.ndarray, "row token"],
        cache: Any,
    ) -> tuple[Float[torch.Tensor, "row vocabulary"], Any]:
        """Run further tokens of texts whose beginnings are cached: for writing a text, one token after the other.

        Args:
            ids, position_ids: the new tokens; rows of unequal length are padded on the left.
            seen: 1 for tokens, 0 for padding, the cached ones included.
            cache: what the last call returned, or None to begin.

        Returns:
            Logits (float32) of what follows each row's last token, and transformers' cache of keys and values.
        """
        output = self.bridge.original_model.base_model(
            input_ids=torch.as_tensor(ids, device=self.device),
            position_ids=torch.as_tensor(position_ids, device=self.device),
            attention_mask=torch.as_tensor(seen, device=self.device),
            past_key_values=cache,
            use_cache=True,
        )
        return self.logits(output.last_hidden_state[:, -1]), output.past_key_values

    @contextmanager
    def hooked(self, hooks: dict[str, Hook]) -> Iterator[None]:
        """Attach one function per site; always removed again. A function that returns a tensor replaces the value."""

        def adapted(site: str, function: Hook) -> Callable[..., Any]:
            def call(value: torch.Tensor, hook: Any) -> Any:
                return function(site, value)

            return call

        with self.bridge.hooks(fwd_hooks=[(site, adapted(site, f)) for site, f in hooks.items()]):
            yield

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

    def logits(self, final: Float[torch.Tensor, "token d_model"]) -> Float[torch.Tensor, "token vocabulary"]:
        """Logits (float32) from final-normed residuals; for log-probs of given tokens `log_probs` takes less memory."""
        return self._capped(self.bridge.original_model.get_output_embeddings()(final))

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
            return torch.cat([self._picked(self._capped(head(f)), w) for f, w in chunks])
        cap = LOGIT_BLOCK_GPU if self.device.type == "cuda" else LOGIT_BLOCK
        width = max(cap // max(len(final), 1), 1024)
        total = torch.full(wanted.shape, -torch.inf, device=self.device)
        picked = torch.zeros_like(total)
        for start in range(0, linear.weight.shape[0], width):
            block = slice(start, start + width)
            bias = linear.bias[block] if linear.bias is not None else None
            logits = self._capped(torch.nn.functional.linear(final, linear.weight[block], bias))
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

    def _capped(self, logits: torch.Tensor) -> torch.Tensor:
        cap = getattr(self.bridge.original_model.config, "final_logit_softcapping", None)
        found = logits.float()
        return cap * torch.tanh(found / cap) if cap else found

    def _picked(self, logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return logits.gather(-1, wanted[:, None])[:, 0] - logits.logsumexp(dim=-1)

    def _call(self, **inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.bridge.original_model.base_model(use_cache=False, **inputs).last_hidden_state
        return output
