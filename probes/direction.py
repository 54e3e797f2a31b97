"""Direction: one unit vector at one site, with what it was fitted on. The value everything else passes around."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from activations.artifact import FORMAT_VERSION, content_hash, writing
from activations.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Direction:
    """A direction in the residual stream, pointing from the negative (curt) to the positive (compassionate) side.

    Attributes:
        vector: unit length, float64, read-only, shape [d_model].
        site: TransformerLens hook name; position: which token(s) it was read at; method: how it was fitted.
        size: length of the unnormalised direction, in the residual stream's own units.
        tau: median residual norm of neutral tokens at this site: the unit of steering doses.
        scenarios: hash of the scenario ids it was fitted on; checkpoint: identity of the activations.
    """

    vector: Float[np.ndarray, "d_model"]
    site: str
    position: str
    method: str
    contrast: str
    domain: str
    size: float
    tau: float
    scenarios: str
    checkpoint: str

    def __post_init__(self) -> None:
        vector = np.array(self.vector, dtype=np.float64)
        norm = float(np.linalg.norm(vector))
        if not np.isfinite(norm) or norm == 0.0:
            raise ValueError(f"direction at {self.site}: the vector has no finite length")
        vector /= norm
        vector.setflags(write=False)
        object.__setattr__(self, "vector", vector)

    @property
    def hash(self) -> str:
        """Content hash: the vector's bytes and everything said about it."""
        return content_hash([self.vector.tobytes().hex(), self.about()])

    def project(self, residuals: Float[np.ndarray, "*batch d_model"]) -> Float[np.ndarray, "*batch"]:
        """Signed length along the direction, in the residual stream's units (divide by `tau` for doses)."""
        return np.asarray(np.asarray(residuals, dtype=np.float64) @ self.vector)

    def cosine(self, other: "Direction") -> float:
        """Cosine with another direction.

        Raises:
            ValueError: the two have different widths.
        """
        if self.vector.shape != other.vector.shape:
            raise ValueError(f"widths differ: {self.vector.shape[0]} and {other.vector.shape[0]}")
        return float(self.vector @ other.vector)

    def save(self, path: Path) -> None:
        """Write as safetensors: tensor `vector` (float32), everything else as metadata."""
        metadata = {"kind": "direction", "format_version": str(FORMAT_VERSION), "about": json.dumps(self.about())}
        with writing(path) as temporary:
            save_file({"vector": self.vector.astype(np.float32)}, temporary, metadata=metadata)

    @classmethod
    def load(cls, path: Path) -> "Direction":
        """Read a file that `save` wrote.

        Raises:
            InputError: the file is missing, no direction file, or of another format version.
        """
        try:
            with safe_open(path, framework="numpy") as handle:
                metadata = handle.metadata() or {}
                vector = handle.get_tensor("vector")
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"is no direction file ({error})", where=str(path), mend="write one with Direction.save"
            ) from error
        if metadata.get("kind") != "direction" or metadata.get("format_version") != str(FORMAT_VERSION):
            raise InputError(
                f"is no direction file of format version {FORMAT_VERSION}", where=str(path), mend="fit it again"
            )
        return cls(vector=vector, **json.loads(metadata["about"]))

    def about(self) -> dict[str, object]:
        """Everything said of the vector, as its file's metadata holds it."""
        names = ("site", "position", "method", "contrast", "domain", "size", "tau", "scenarios", "checkpoint")
        return {name: getattr(self, name) for name in names}
