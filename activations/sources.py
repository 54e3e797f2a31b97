"""Whole weights and adapters: resolved, identified by content, loaded into a plain transformers model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from activations.artifact import content_hash, file_hash
from activations.edits import EDIT_VERSION
from activations.embedded import embedded_model
from activations.errors import InputError
from activations.lineage import Adapter, Lineage, Source

WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json")
TOKENIZER_FILES = ("tokenizer*", "*.model", "vocab*", "merges*", "special_tokens_map.json", "*.jinja")


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedSource:
    """A source that can be loaded: a folder or hub id, and a hash of what it holds."""

    place: str
    revision: str | None
    subfolder: str
    identity: str


def resolve_source(source: Source, where: str) -> ResolvedSource:
    """Find a source's weights and identify them: file hashes for folders, the commit for hub ids.

    Raises:
        InputError: the weights cannot be found or reached, or are only there in pickled form.
    """
    if source.hub is not None:
        return _resolve_hub(source, where)
    folder = embedded_model(source.embedded) if source.embedded is not None else source.path
    assert folder is not None  # the study reader asks for exactly one place
    files = sorted({p for pattern in WEIGHT_FILES + TOKENIZER_FILES for p in folder.glob(pattern)})
    if not any(p.suffix == ".safetensors" for p in files):
        raise InputError(
            "no safetensors weights in this folder",
            where=f"{where}: {folder}",
            mend="save the model with save_pretrained(..., safe_serialization=True); pickled weights are not read",
        )
    identity = content_hash({p.name: file_hash(p) for p in files})
    return ResolvedSource(place=str(folder), revision=None, subfolder="", identity=identity)


def _resolve_hub(source: Source, where: str) -> ResolvedSource:
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    assert source.hub is not None
    key = f"{where}: {source.hub}"
    config = f"{source.subfolder}/config.json" if source.subfolder else "config.json"
    try:
        found = huggingface_hub.hf_hub_download(source.hub, config, revision=source.revision)
    except GatedRepoError as error:
        raise InputError(
            "this model is gated", where=key, mend="accept its terms on its page, then set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise InputError(
            "no such model on the hub", where=key, mend="check the id; private ones need HF_TOKEN"
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:160]
        raise InputError(
            f"cannot be reached: {reason}",
            where=key,
            mend="check id, revision and network, or download it and give source = { path = … }",
        ) from error
    commit = Path(found).resolve().parts
    parts = Path(found).parts
    revision = parts[parts.index("snapshots") + 1] if "snapshots" in parts else (source.revision or commit[-2])
    identity = content_hash({"hub": source.hub, "commit": revision, "subfolder": source.subfolder})
    return ResolvedSource(place=source.hub, revision=revision, subfolder=source.subfolder, identity=identity)


def checkpoint_identity(lineage: Lineage, name: str, resolved: ResolvedSource) -> str:
    """Content hash of everything that determines a checkpoint's weights: its source and each adapter and edit."""
    steps: list[Any] = [resolved.identity]
    for checkpoint in lineage.chain(name)[1:]:
        if checkpoint.adapter is not None:
            files = {p.name: file_hash(p) for p in _adapter_files(checkpoint.adapter)}
            steps.append({"adapter": files, "scale": checkpoint.adapter.scale})
        elif checkpoint.edit is not None:
            edit = checkpoint.edit
            direction = file_hash(edit.direction) if edit.direction is not None else ""
            steps.append({"edit": edit.kind, "version": EDIT_VERSION, "amount": edit.amount, "direction": direction})
            if edit.to:
                steps.append({"to": edit.to})
    return content_hash(steps)


def config_type(resolved: ResolvedSource, where: str) -> str:
    """`model_type` of a source's config."""
    try:
        config = transformers.AutoConfig.from_pretrained(
            resolved.place, revision=resolved.revision, subfolder=resolved.subfolder, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise InputError(f"its config cannot be read: {reason}", where=where, mend="check the files") from error
    return str(config.model_type)


def load_tokenizer(resolved: ResolvedSource, where: str) -> Any:
    """The source's fast tokenizer (character offsets are needed to find where an answer starts)."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            resolved.place, revision=resolved.revision, subfolder=resolved.subfolder, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise InputError(f"its tokenizer cannot be loaded: {reason}", where=where, mend="check the files") from error
    if not tokenizer.is_fast:
        raise InputError("has no fast tokenizer", where=where, mend="convert it to tokenizer.json first")
    return tokenizer


def load_weights(resolved: ResolvedSource, dtype: torch.dtype, where: str) -> Any:
    """The plain transformers model, eager attention, in eval mode, no remote code, safetensors only."""
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            resolved.place,
            revision=resolved.revision,
            subfolder=resolved.subfolder,
            dtype=dtype,
            attn_implementation="eager",
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise InputError(f"its weights cannot be loaded: {reason}", where=where, mend="check the files") from error
    return model.eval()


def merge_adapter(model: Any, adapter: Adapter, probe_ids: torch.Tensor, where: str) -> tuple[Any, float]:
    """Merge a LoRA on a model, scaled, and prove that it did something.

    Args:
        probe_ids: token ids [1, token] of a text whose logits must change.

    Returns:
        The merged plain model and the largest absolute change of a logit on the probe.

    Raises:
        InputError: no LoRA that fits this model, or one that changes no logit.
    """
    import peft
    from peft.tuners.lora import LoraLayer

    before = _logits(model, probe_ids)
    try:
        wrapped = peft.PeftModel.from_pretrained(model, str(adapter.path), use_safetensors=True)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise InputError(
            f"cannot be applied to its parent: {reason}",
            where=f"{where}: {adapter.path}",
            mend="check that it was trained on this parent",
        ) from error
    if adapter.scale != 1.0:
        for module in wrapped.modules():
            if isinstance(module, LoraLayer):
                module.scale_layer(adapter.scale)
    merged = wrapped.merge_and_unload().eval()
    change = float((_logits(merged, probe_ids) - before).abs().max())
    if change == 0.0:
        raise InputError(
            "the adapter changes no logit: its keys do not match the parent, or it was never trained",
            where=f"{where}: {adapter.path}",
            mend="check base_model_name_or_path and target_modules in its config",
        )
    return merged, change


def _adapter_files(adapter: Adapter) -> list[Path]:
    return [adapter.path / "adapter_config.json", adapter.path / "adapter_model.safetensors"]


@torch.no_grad()
def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids.to(model.device), use_cache=False).logits.float()
