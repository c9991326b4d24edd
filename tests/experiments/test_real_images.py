"""Real images end to end on the tiny pipeline: a table of pairs with pictures, inverted and edited."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import experiments.running.inversion_cache
from experiments.inputs.real_images import RealImage
from experiments.running.inversion_cache import read_path, write_path
from experiments.running.png_files import read_png
from p2p.source_path import Shrink, SourcePath
from results.store.records import load, load_records
from tests.experiments.command import Cli, forbid_generating


def picture(path: Path, height: int = 32, width: int = 32, shift: float = 0.0) -> Path:
    """Write a smooth picture."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    Image.fromarray((np.stack([x, y, 0.5 + 0.5 * np.sin(7 * x + shift)], -1) * 255).astype(np.uint8)).save(
        path
    )
    return path


@pytest.fixture
def tiny(tiny_folder: Path, tmp_path: Path) -> list[str]:
    """Overrides for a run of two pairs on one image."""
    picture(tmp_path / "bench.png")
    source = {"source_prompt": "a cat on a bench", "image": "bench.png"}
    rows: list[dict[str, object]] = [
        {"id": "dog", "target_prompt": "a dog on a bench", **source},
        {
            "id": "hat",
            "target_prompt": "a cat with a hat on a bench",
            "blend_words": ["cat", "hat"],
            **source,
        },
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return [
        *("model=folder", f"model.path={tiny_folder}", "model.self_max_side=16", "device=cpu"),
        *("sampling.num_inference_steps=4", "dataset=table", f"dataset.path={tmp_path / 'pairs.jsonl'}"),
        *("grid=trade_off", "grid.seeds=[0]", "grid.methods.p2p.tau=[0.2]"),
        *("grid.methods.sdedit.strength=[0.5]", "metrics=pixel", "plots=false", "report=false"),
        f"run_dir={tmp_path / 'run'}",
    ]  # fmt: skip


def test_a_table_of_images_is_inverted_edited_scored_and_resumed(
    cli: Cli,
    tiny: list[str],
    run_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli("run", *tiny, "inversions=[direct,edit_friendly]") == 0
    assert "of them at most for inverting images" in capsys.readouterr().out
    records = load(run_dir)
    # SDEdit needs no inversion, so that it is made once for both.
    methods = records.groupby("inversion")["method"].value_counts()
    assert methods[""].to_dict() == {"source": 2, "sdedit": 2}
    for name in ("direct", "edit_friendly"):
        assert methods[name].to_dict() == dict.fromkeys(("source", "reconstruction", "p2p", "fixed_seed"), 2)
    for row in records.itertuples():
        np.testing.assert_array_equal(
            read_png(run_dir / row.source_image), read_png(run_dir.parent / "bench.png")
        )
        assert row.effective_steps == (2 if row.method == "sdedit" else 4)
    errors = records.set_index(["method", "inversion"])["mse@1"].sort_index()
    vae = errors["reconstruction", "direct"].iloc[0]  # what the autoencoder alone loses
    assert 0 < vae == errors["reconstruction", "direct"].iloc[1]
    assert errors["reconstruction", "edit_friendly"].iloc[0] == pytest.approx(vae, rel=0.05)
    assert errors["p2p", "direct"].ne(vae).all()
    table = pd.read_csv(run_dir / "tables" / "main.csv")
    assert set(table["n_images"] + table["n_missing"]) == {2}  # both pairs, but never two inversions

    with monkeypatch.context() as patch:
        forbid_generating(patch)
        assert cli("run", *tiny, "inversions=[direct,edit_friendly]") == 0


@pytest.mark.usefixtures("no_tables")
def test_inversions_are_kept_by_content_and_a_broken_one_is_made_anew(
    cli: Cli,
    tiny: list[str],
    run_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = experiments.running.inversion_cache.source_paths
    inverted: list[int] = []

    def counted(model, groups, *rest):  # type: ignore[no-untyped-def]
        inverted.append(len(groups))
        return real(model, groups, *rest)

    monkeypatch.setattr(experiments.running.inversion_cache, "source_paths", counted)
    tiny = [*tiny, "inversion=direct", "~grid.methods.sdedit"]
    assert cli("run", *tiny) == 0
    [kept] = (run_dir.parent / ".cache" / "inversions").glob("*")
    before = load(run_dir)
    # Another run folder, another path to the same bytes: nothing is inverted again.
    (run_dir.parent / "bench.png").rename(run_dir.parent / "moved.png")
    table = run_dir.parent / "pairs.jsonl"
    table.write_text(table.read_text().replace("bench.png", "moved.png"))
    assert cli("run", *tiny, f"run_dir={run_dir}-2") == 0
    assert inverted == [1, 0]
    after = load(Path(f"{run_dir}-2"))
    pd.testing.assert_series_equal(after["mse@1"], before["mse@1"])
    pd.testing.assert_series_equal(after["key"], before["key"])
    kept.write_bytes(kept.read_bytes()[:1000])
    assert cli("run", *tiny, f"run_dir={run_dir}-3") == 0
    assert "cannot be read, the inversion is made anew" in capsys.readouterr().out
    assert inverted == [1, 0, 1]
    pd.testing.assert_series_equal(load(Path(f"{run_dir}-3"))["mse@1"], before["mse@1"])
    path = read_path(kept, torch.device("cpu"))
    assert path is not None
    other = kept.with_stem("0" * 64)
    write_path(replace(path, latents=path.latents + 1), other)
    other.replace(kept)  # whole, but of another picture
    assert cli("run", *tiny, f"run_dir={run_dir}-4") == 0
    assert f"cannot be read, the inversion is made anew: it is the inversion {'0' * 64}" in (
        capsys.readouterr().out
    )
    assert inverted == [1, 0, 1, 1]
    pd.testing.assert_series_equal(load(Path(f"{run_dir}-4"))["mse@1"], before["mse@1"])


@pytest.mark.usefixtures("no_tables")
def test_a_lost_reconstruction_is_made_again(cli: Cli, tiny: list[str], run_dir: Path) -> None:
    few = [*tiny, "inversions=[ddim]", "dataset.limit=1"]
    assert cli("run", *few, "~metrics.pixel") == 0
    records = load_records(run_dir)
    lost = run_dir / records.loc[records["method"].eq("reconstruction"), "image"].item()
    lost.unlink()
    assert cli("run", *few) == 0
    assert lost.is_file()
    assert load(run_dir).query("method == 'reconstruction'")["mse@1"].notna().all()


@pytest.mark.usefixtures("no_tables")
def test_other_seeds_are_made_where_they_matter_only(cli: Cli, tiny: list[str], run_dir: Path) -> None:
    assert cli("run", *tiny, "seed=[0,1]", "inversions=[ddim,edit_friendly]", "dataset.limit=1") == 0
    records = load_records(run_dir)
    seeds = records.groupby(["inversion", "method"])["seed"].nunique()
    assert seeds["ddim", "p2p"] == seeds["ddim", "reconstruction"] == 1
    assert seeds["edit_friendly", "p2p"] == seeds["edit_friendly", "reconstruction"] == 2
    assert seeds["", "sdedit"] == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["inversion=none"], "starts from the noise of its image, which only an inversion finds"),
        (
            ["inversion=ddim", "model.scheduler=EulerDiscreteScheduler"],
            "EulerDiscreteScheduler cannot be inverted",
        ),
        (["inversion=edit_friendly", "sampling.guidance_scale=1"], "guidance_scale: 3.5 for the source"),
        (["inversion=proximal", "inversion.quantile=2"], "quantile: 2"),
        (["inversions=[ddim,imagic]"], "inversions: no inversion 'imagic', allowed are ddim"),
        (["inversions=ddim"], "inversions: 'ddim' is not a list of names"),
        (["inversion=ddim", "dataset=p2p_templates"], "has no image that ddim could invert"),
    ],
)
def test_what_cannot_be_inverted_is_one_clear_error(
    overrides: list[str],
    message: str,
    cli: Cli,
    tiny: list[str],
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "dataset=p2p_templates" in overrides:
        tiny = [override for override in tiny if not override.startswith("dataset")]
    assert cli("run", *tiny, *overrides) == 2
    assert message in capsys.readouterr().err
    assert not (run_dir / "records").exists()


def test_a_file_that_is_no_picture_is_named(
    cli: Cli, tiny: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_dir.parent / "bench.png").write_bytes((run_dir.parent / "bench.png").read_bytes()[:60])
    assert cli("run", *tiny, "inversion=direct") == 2
    assert "bench.png': cannot be read as a picture" in capsys.readouterr().err


def test_sdedit_alone_needs_no_inversion(cli: Cli, tiny: list[str], run_dir: Path) -> None:
    assert cli("run", *tiny, "~grid.methods.p2p", "~grid.methods.fixed_seed", "dataset.limit=1") == 0
    assert sorted(load_records(run_dir)["method"]) == ["sdedit", "source"]


def test_one_picture_is_edited_from_the_command_line(cli: Cli, tiny: list[str], run_dir: Path) -> None:
    given = [override for override in tiny if not override.startswith("dataset")]
    prompts = ["dataset.source_prompt=a cat on a bench", "dataset.target_prompt=a dog on a bench"]
    files = [
        f"dataset.{name}={picture(run_dir.parent / f'{name}.png', 40, 50)}" for name in ("image", "mask")
    ]
    assert cli("run", *given, "dataset=inline", *prompts, *files, "inversion=direct") == 0
    records = load_records(run_dir)
    assert set(records["method"]) == {"fixed_seed", "p2p", "reconstruction", "sdedit", "source"}
    assert all((run_dir / mask).is_file() for mask in records["mask"])
    sources = records[records["method"].eq("source")]
    assert set(sources["warnings"]) == {"image: 50x40, centre 40x40 kept, resized to 32x32"}


def test_pictures_keep_their_centre_and_say_so(tmp_path: Path) -> None:
    exact = RealImage.of(picture(tmp_path / "exact.png"))
    np.testing.assert_array_equal(exact.read((32, 32)).numpy(), read_png(tmp_path / "exact.png"))
    assert exact.fitted((32, 32)) == ""
    pixels = np.zeros((40, 100, 3), np.uint8)
    pixels[:, 30:70] = (255, 0, 0)  # the centre square is red, its sides are black
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    wide = RealImage.of(tmp_path / "wide.png")
    red = torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 20, 20)
    torch.testing.assert_close(wide.read((20, 20)), red)
    assert wide.fitted((20, 20)) == "image: 100x40, centre 40x40 kept, resized to 20x20"
    assert wide.read((20, 50)).shape == (3, 20, 50)


def test_a_path_is_the_same_after_writing_and_reading(tmp_path: Path) -> None:
    rows = torch.randn(2, 3, 4, 8, 8, dtype=torch.float64)
    path = SourcePath(
        rows[0, 0],
        2,
        None,
        rows[0],
        rows[1],
        {"encoder_hidden_states": rows[:, 0]},
        3.5,
        Shrink(quantile=0.75),
        solver="midpoint",
        level_step="virtual",
        picture=rows[0, 0],
        pulls=(0.9, 0.0),
    )
    write_path(path, tmp_path / "kept" / "path.safetensors")
    again = read_path(tmp_path / "kept" / "path.safetensors", torch.device("cpu"))
    assert again is not None
    for name in ("latents", "states", "noises", "picture"):
        assert torch.equal(getattr(again, name), getattr(path, name))
    assert again.negatives is not None
    assert torch.equal(again.negatives["encoder_hidden_states"], rows[:, 0])
    assert (again.start, again.guidance_scale, again.shrink) == (2, 3.5, path.shrink)
    assert (again.solver, again.level_step, again.pulls) == ("midpoint", "virtual", (0.9, 0.0))
    assert [file.name for file in (tmp_path / "kept").iterdir()] == ["path.safetensors"]


@pytest.mark.usefixtures("no_tables")
def test_records_tell_where_a_picture_starts_and_how_noisy_it_is_there(
    cli: Cli, tiny: list[str], run_dir: Path
) -> None:
    more = ["inversion=edit_friendly", "inversion.skip=0.25", "grid.methods.sdedit.strength=[0.5,1]"]
    assert cli("run", *tiny, *more) == 0
    records = load_records(run_dir)
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    noise = 1 - np.cumprod(1 - betas)
    for row in records.itertuples():
        timestep = {0.5: 251, 1.0: 751}[row.strength] if row.method == "sdedit" else 501
        if row.method == "source":
            assert np.isnan(row.start_timestep)
            assert np.isnan(row.start_noise)
        else:
            assert row.start_timestep == timestep
            assert row.start_noise == pytest.approx(noise[timestep], abs=1e-6)
