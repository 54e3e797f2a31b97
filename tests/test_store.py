"""The store keeps what it was given, resumes block by block, and refuses what it cannot trust."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import base, study_of

from activations import capture as capturing
from activations.capture import capture, run_block
from activations.errors import InputError
from activations.model import open_checkpoint
from activations.packing import RowPlan
from activations.pairs import PlainTemplate, Text, study_texts
from activations.store import ActivationStore, Measured, _room, read_part, write_part, write_store
from activations.tokens import tokenize

PLAN = RowPlan(row_budget=300, rows_per_batch=2)


class Setting:
    def __init__(self, folder: Path, tiny: Path) -> None:
        import torch

        self.study = study_of(folder, [base(tiny)])
        _, self.texts = study_texts(self.study, PlainTemplate())
        self.model = open_checkpoint(self.study, "base", device=torch.device("cpu"), neutral_ids=[])
        self.tokens = tokenize(self.model.tokenizer, self.texts, 4096, "test")
        self.opened = 0

    def capture(self, path: Path, determinants=None, advance=lambda _n: None) -> bool:
        def opening():
            self.opened += 1
            return self.model

        return capture(
            opening,
            path=path,
            determinants=determinants or {"weights": "w"},
            texts=self.texts,
            tokens=self.tokens,
            plan=PLAN,
            advance=advance,
        )


@pytest.fixture
def setting(texts_folder, tiny, monkeypatch) -> Setting:
    monkeypatch.setattr(capturing, "BLOCK_GROUPS", 4)  # several blocks, so that there is something to resume
    return Setting(texts_folder, tiny)


def test_slices_come_back_as_they_were_measured(setting, tmp_path):
    setting.capture(tmp_path / "a.h5")
    found = run_block(setting.model, setting.texts, setting.tokens, PLAN, lambda _n: None)
    measured = [t.text_id for t in setting.texts if t.kind == "response"]
    with ActivationStore(tmp_path / "a.h5") as store:
        held = list(store.rows("response").text_id)
        # The fixture's two domains ask the same questions, so that texts which share a prompt are not neighbours.
        assert sorted(held) == sorted(measured)
        assert held != measured
        order = [measured.index(t) for t in held]
        for number, position in enumerate(("response_mean", "response_last")):
            got = store.residual("response", position, store.sites[3])
            np.testing.assert_allclose(got, found["response"].residual[order, number, 3], rtol=1e-4, atol=1e-5)
        means = [s.mean() for s in np.split(found["response"].logprob, np.cumsum(found["response"].n_tokens)[:-1])]
        np.testing.assert_allclose(store.mean_logprob("response"), np.asarray(means)[order], atol=1e-5)
        assert store.token_norm(store.sites[0]).shape == (found["neutral"].n_tokens.sum(),)
        assert set(store.kinds) == {"response", "prompt", "null_prompt", "neutral"}


def test_a_finished_store_is_not_captured_again(setting, tmp_path):
    assert setting.capture(tmp_path / "a.h5")
    assert not setting.capture(tmp_path / "a.h5")
    assert setting.opened == 1


def test_other_determinants_capture_anew(setting, tmp_path):
    setting.capture(tmp_path / "a.h5")
    assert setting.capture(tmp_path / "a.h5", {"weights": "other"})
    assert setting.opened == 2


@pytest.mark.parametrize("stop_after", [1, 3, 6])
def test_an_interrupted_capture_resumes_to_the_same_bytes(setting, tmp_path, stop_after):
    setting.capture(tmp_path / "whole.h5")
    calls = 0

    def interrupt(_n: int) -> None:
        nonlocal calls
        calls += 1
        if calls == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        setting.capture(tmp_path / "cut.h5", advance=interrupt)
    assert not (tmp_path / "cut.h5").exists()
    kept = sorted((tmp_path / "cut.parts").glob("*.safetensors"))
    written = [p.stat().st_mtime_ns for p in kept]
    setting.capture(tmp_path / "cut.h5")
    assert (tmp_path / "cut.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert not (tmp_path / "cut.parts").exists()
    assert len(written) == len(kept)


def test_a_damaged_or_foreign_part_is_measured_again(setting, tmp_path):
    setting.capture(tmp_path / "whole.h5")
    calls = 0

    def interrupt(_n: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        setting.capture(tmp_path / "cut.h5", advance=interrupt)
    part = next(iter(sorted((tmp_path / "cut.parts").glob("*.safetensors"))))
    data = bytearray(part.read_bytes())
    data[-100] ^= 1
    part.write_bytes(data)
    assert read_part(part, "anything") is None
    setting.capture(tmp_path / "cut.h5")
    assert (tmp_path / "cut.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_truncated_foreign_newer_and_flipped_files_are_refused(setting, tmp_path):
    path = tmp_path / "a.h5"
    setting.capture(path)

    truncated = tmp_path / "truncated.h5"
    truncated.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"truncated\.h5: cannot be read[\s\S]*delete this file"):
        ActivationStore(truncated)

    foreign = tmp_path / "foreign.h5"
    with h5py.File(foreign, "w") as file:
        file["x"] = [1]
    with pytest.raises(InputError, match="is no ActivationStore"):
        ActivationStore(foreign)

    newer = tmp_path / "newer.h5"
    shutil.copyfile(path, newer)
    with h5py.File(newer, "r+") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(InputError, match="has format version 99; this program reads 1 and 2"):
        ActivationStore(newer)

    flipped = tmp_path / "flipped.h5"
    shutil.copyfile(path, flipped)
    with h5py.File(path) as file:
        chunk = file["response/residual"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset + 7] ^= 1
    flipped.write_bytes(data)
    with ActivationStore(flipped) as store, pytest.raises(InputError, match="response/residual is damaged"):
        store.residual("response", "response_mean", store.sites[0])

    with pytest.raises(InputError, match="no activations here"):
        ActivationStore(tmp_path / "none.h5")


def test_an_unknown_slice_is_refused_by_name(setting, tmp_path):
    setting.capture(tmp_path / "a.h5")
    with ActivationStore(tmp_path / "a.h5") as store, pytest.raises(InputError, match="positions: response_mean"):
        store.residual("response", "prompt_last", store.sites[0])


def test_the_room_that_is_reserved_is_more_than_the_file_takes(tmp_path):
    """One long id makes every value of its column as long: they are of fixed length."""
    about = {"kind": "null_prompt", "text": "x", "group": "x"}
    columns = ("pair_id", "scenario_id", "domain", "contrast", "design", "language", "side")
    long = Text(text_id="t" * 200, **about, **{c: c * 20 for c in columns})
    texts = [long, *(Text(text_id=f"t{i}", **about) for i in range(3000))]
    none = np.zeros(0, dtype=np.float32)
    found = Measured(
        residual=np.zeros((len(texts), 0, 2, 4), np.float32),
        logprob=none,
        token_norm=np.zeros((0, 2), np.float32),
        n_tokens=np.zeros(len(texts), np.int64),
    )
    write_part(tmp_path / "0.safetensors", "id", {"null_prompt": found})
    parts = [tmp_path / "0.safetensors"]
    write_store(tmp_path / "a.h5", {"identity": "a", "d_model": 4}, ["a", "b"], texts, parts, "id")
    assert (tmp_path / "a.h5").stat().st_size <= _room(texts, parts, 2, 4)
