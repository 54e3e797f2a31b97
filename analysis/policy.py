"""A policy for `compassion check`: which verdicts stop a pipeline."""

import tomllib
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from activations.errors import InputError
from analysis.verdict import LEVELS, NO_VERDICT, SEVERITY, UNSETTLED, head


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Rule(_Strict):
    """One [[fail]] table.

    Fails on a verdict at least as bad as `at_least` (or one of `verdicts`), with evidence of `evidence` or more, in
    these domains and children; an empty list means all of them ("pooled" too).
    """

    at_least: Literal[SEVERITY] | None = None  # type: ignore[valid-type]
    verdicts: list[Literal[(*SEVERITY, *UNSETTLED)]] = []  # type: ignore[valid-type]
    evidence: Literal[LEVELS] = "E0"  # type: ignore[valid-type]
    domains: list[str] = []
    children: list[str] = []

    def hits(self, row: pd.Series) -> bool:
        """Whether a row of verdicts.csv breaks this rule."""
        said = head(row.verdict)
        worse = SEVERITY[SEVERITY.index(self.at_least) :] if self.at_least is not None else ()
        return (
            said in (*worse, *self.verdicts)
            and LEVELS.index(row.evidence) >= LEVELS.index(self.evidence)
            and (not self.domains or row.domain in self.domains)
            and (not self.children or row.child in self.children)
        )


class Policy(_Strict):
    """A policy file. `no_verdict` says what a refusal means to the pipeline, and has no default on purpose."""

    no_verdict: Literal["fail", "pass"]
    fail: list[Rule] = Field(min_length=1)


def read_policy(path: Path) -> Policy:
    """Read and check a policy file.

    Raises:
        InputError: it is missing, no TOML, or holds something unknown; the message names the key.
    """
    try:
        policy = Policy.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", where=str(path), mend="give a policy.toml") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"is no TOML: {error}", where=str(path), mend="correct that line") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(p) for p in first["loc"])
        mend = "see docs/verdicts.md for a policy's keys"
        raise InputError(first["msg"], where=f"{path}, {key}", mend=mend) from error
    for number, rule in enumerate(policy.fail):
        if rule.at_least is None and not rule.verdicts:
            mend = f"add at_least (one of {', '.join(SEVERITY)}) or verdicts"
            raise InputError("names no verdict", where=f"{path}, fail.{number}", mend=mend)
    return policy


def violations(policy: Policy, verdicts: pd.DataFrame) -> pd.DataFrame:
    """The rows of verdicts.csv that break the policy, in their order.

    Raises:
        InputError: a rule names a domain or child that no row has: it could never fail.
    """
    for number, rule in enumerate(policy.fail):
        for key, named in (("domains", rule.domains), ("children", rule.children)):
            known = set(verdicts["domain" if key == "domains" else "child"])
            unknown = [name for name in named if name not in known]
            if unknown:
                raise InputError(
                    f"no verdict of this run is about {unknown[0]!r}",
                    where=f"policy, fail.{number}.{key}",
                    mend=f"known here: {', '.join(sorted(known))}",
                )
    stops = [
        (policy.no_verdict == "fail" and row.verdict == NO_VERDICT) or any(rule.hits(row) for rule in policy.fail)
        for _, row in verdicts.iterrows()
    ]
    return verdicts[np.asarray(stops, dtype=bool)]
