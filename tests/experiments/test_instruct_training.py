"""A small InstructPix2Pix: the pairs its data are made of, exported edits, its training, and the method."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTextModel

import experiments.embedded.train_instruct as train_instruct
from experiments.datasets.embedded_pairs import scene_pairs
from experiments.datasets.embedded_training import EmbeddedTraining, edit_type, training_pairs
from experiments.embedded.denoiser import build_scheduler, build_unet
from experiments.embedded.input_errors import InputError
from experiments.embedded.train_instruct import (
    DROPOUT,
    EditExamples,
    Edits,
    InstructObjective,
    InstructRecipe,
    draw_conditions,
    edit_examples,
    parse,
    read_edits,
    widen,
)
from experiments.embedded.training import WEIGHTS
from experiments.embedded.worlds.scenes.drawing import draw_scenes
from experiments.embedded.worlds.scenes.world import Scene, Thing
from results.store.records import load
from tests.experiments.command import Cli
from tests.experiments.training_parts import embedded_tokenizer

CAPTIONS = ("a dog in the snow", "a red cat on the beach")


def test_pairs_are_of_training_scenes_and_of_every_edit_type() -> None:
    pairs = training_pairs(400, 0)
    assert not any(scene.reserved() for pair in pairs for scene in (pair.source, pair.target))
    assert set(Counter(pair.edit_type for pair in pairs)) == {
        "swap", "add", "remove", "attribute", "place", "time", "style",
    }  # fmt: skip
    captions = {(pair.source.caption(), pair.target.caption()) for pair in pairs}
    assert len(captions) == len({pair.id for pair in pairs}) == 400
    assert not captions & {(pair.source.caption(), pair.target.caption()) for pair in scene_pairs()}


def test_fewer_pairs_are_the_first_of_more_and_another_seed_gives_others() -> None:
    few, many = EmbeddedTraining(pairs=5).load(), EmbeddedTraining(pairs=20).load()
    assert few == many[:5]
    other = EmbeddedTraining(pairs=20, seed=1).load()
    assert not {pair.id for pair in many} & {pair.id for pair in other}
    assert not {(p.source_prompt, p.target_prompt) for p in many} & {
        (p.source_prompt, p.target_prompt) for p in other
    }


@pytest.mark.parametrize(("name", "value"), [("pairs", 0), ("seed", -1)])
def test_numbers_of_pairs_and_seeds_have_bounds(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} = {value}: must be at least"):
        EmbeddedTraining(**{name: value}).load()  # type: ignore[arg-type]


CAT, BUS = Thing("cat"), Thing("bus")


@pytest.mark.parametrize(
    ("source", "target", "kind"),
    [
        (Scene((CAT,)), Scene((Thing("dog"),)), "swap"),
        (Scene((CAT,)), Scene((CAT, BUS)), "add"),
        (Scene((CAT, BUS)), Scene((CAT,)), "remove"),
        (Scene((CAT, BUS)), Scene((CAT, Thing("bus", "big"))), "attribute"),
        (Scene((Thing("cat", wearing="hat"),)), Scene((CAT,)), "attribute"),
        (Scene((Thing("cat", colour="red"),)), Scene((CAT,)), ""),
        (Scene((Thing("cat", "big", "red"),)), Scene((Thing("cat", "big"),)), ""),
        (Scene((CAT,)), Scene((CAT,), "snow"), "place"),
        (Scene((CAT,), "snow"), Scene((CAT,)), ""),
        (Scene((CAT,), time="night"), Scene((CAT,)), "time"),
        (Scene((CAT,)), Scene((CAT,), fog=True), "time"),
        (Scene((CAT,)), Scene((CAT,), style="sketch"), "style"),
        (Scene((CAT,), style="photo"), Scene((CAT,)), ""),
    ],
)
def test_an_edit_is_of_a_type_where_something_of_it_must_show(
    source: Scene, target: Scene, kind: str
) -> None:
    assert edit_type(source, target) == kind


# --- exported edits ---


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """Write two edits as `p2p-bench export` does."""
    folder = tmp_path / "edits"
    pictures = iter(draw_scenes(4, (91, 0)).images)
    for number, caption in enumerate(CAPTIONS):
        (folder / f"{number:07d}").mkdir(parents=True)
        prompt = {"input": "a cat", "edit": "change it", "output": caption}
        (folder / f"{number:07d}" / "prompt.json").write_text(json.dumps(prompt))
        for side in (0, 1):
            Image.fromarray(next(pictures)).save(folder / f"{number:07d}" / f"7_{side}.jpg", quality=100)
    (folder / "seeds.json").write_text(json.dumps([["0000000", ["7"]], ["0000001", ["7"]]]))
    return folder


def test_exported_edits_are_read_with_the_edited_captions(exported: Path) -> None:
    edits = read_edits(exported)
    assert edits.captions == CAPTIONS
    drawn = draw_scenes(4, (91, 0)).images.astype(int)
    # JPEG at quality 100, its colours at half the resolution.
    assert np.abs(edits.sources.astype(int) - drawn[::2]).mean() < 4
    assert np.abs(edits.targets.astype(int) - drawn[1::2]).mean() < 4
    both = edits.mirrored()
    assert both.captions == CAPTIONS * 2
    np.testing.assert_array_equal(both.sources[2:], edits.sources[:, :, ::-1])
    np.testing.assert_array_equal(both.targets[2:], edits.targets[:, :, ::-1])


def remove_picture(folder: Path) -> None:
    (folder / "0000001" / "7_1.jpg").unlink()


def shrink_picture(folder: Path) -> None:
    Image.new("RGB", (32, 48)).save(folder / "0000001" / "7_1.jpg")


def empty_list(folder: Path) -> None:
    (folder / "seeds.json").write_text("[]")


def break_prompt(folder: Path) -> None:
    (folder / "0000001" / "prompt.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_picture, "7_1.jpg cannot be read"),
        (shrink_picture, "7_1.jpg is 32x48, allowed is 64x64"),
        (empty_list, "holds no edit"),
        (break_prompt, "is no export of p2p-bench .KeyError: 'output'"),
    ],
)
def test_what_is_no_export_is_told_by_its_file(
    damage: Callable[[Path], None], message: str, exported: Path
) -> None:
    damage(exported)
    with pytest.raises(InputError, match=f"data: .*{message}"):
        read_edits(exported)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "data: nowhere has no seeds.json, allowed is a folder of p2p-bench export"),
        (["--batch-size", "0"], "batch_size: 0, allowed is 1 or more"),
        (["--minutes", "0"], "minutes: 0.0, allowed is a number above 0"),
        (["--lr", "inf"], "lr: inf, allowed is a number above 0"),
        (["--out", str(WEIGHTS)], "holds the shipped weights"),
    ],
)
def test_a_wrong_command_line_is_one_line(
    arguments: list[str], message: str, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(["--data", str(exported), *arguments])
    assert message in capsys.readouterr().err


# --- the training ---


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(WEIGHTS / "pipeline" / "vae", dtype=torch.float32)


def tiny_unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return build_unet((16, 32), 128)


def test_a_widened_denoiser_is_the_one_it_was_whatever_the_source() -> None:
    plain = tiny_unet()
    wide = widen(plain)
    noisy, source, text = torch.randn(2, 4, 16, 16), torch.randn(2, 4, 16, 16), torch.randn(2, 6, 128)
    with torch.no_grad():
        before = plain(noisy, 500, text).sample
        after = wide(torch.cat([noisy, source], 1), 500, text).sample
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)  # convolutions of other widths
    assert (wide.config.in_channels, plain.config.in_channels) == (8, 4)


def test_text_source_and_both_are_left_out_as_often() -> None:
    no_text, no_source = draw_conditions(100_000, torch.Generator().manual_seed(0))
    for rows in (no_text & ~no_source, ~no_text & no_source, no_text & no_source):
        assert float(rows.float().mean()) == pytest.approx(DROPOUT, abs=0.003)  # over four deviations


class Seen(nn.Module):
    """A denoiser that keeps what it is given and answers with stated noise."""

    def __init__(self, noise: Tensor) -> None:
        super().__init__()
        self.noise = noise

    def forward(self, rows: Tensor, timesteps: Tensor, text: Tensor) -> Any:
        self.rows, self.text = rows, text
        return type("Output", (), {"sample": self.noise})


def test_what_is_left_out_is_the_empty_caption_and_a_source_of_zeros() -> None:
    noise = torch.randn(3, 4, 16, 16)
    batch = EditExamples(torch.randn(3, 4, 16, 16), torch.randn(3, 4, 16, 16), torch.tensor([[5], [6], [7]]))
    words = nn.Embedding(8, 2)
    encode = type(
        "Encoder", (), {"__call__": lambda _, ids: type("O", (), {"last_hidden_state": words(ids)})}
    )
    seen = Seen(noise + 1)
    objective = InstructObjective(seen, encode(), build_scheduler(), torch.tensor([[3]]), False)
    no_text, no_source = torch.tensor([True, False, False]), torch.tensor([False, True, False])
    steps = torch.tensor([0, 500, 999])
    losses = objective(batch, noise, steps, no_text, no_source)
    assert torch.equal(seen.text, words(torch.tensor([[3], [6], [7]])))
    assert torch.equal(seen.rows[0, 4:], batch.sources[0])
    assert not seen.rows[1, 4:].any()
    noisy = build_scheduler().add_noise(batch.targets, noise, steps)
    torch.testing.assert_close(seen.rows[:, :4], noisy)
    alphas = build_scheduler().alphas_cumprod[steps]
    snr = alphas / (1 - alphas)
    torch.testing.assert_close(losses["denoising"], (snr.clamp(max=5) / snr).mean())  # the error is 1


def test_training_sees_the_source_as_the_pipeline_does(vae: AutoencoderKL, exported: Path) -> None:
    """Means of the autoencoder that are not scaled, beside noisy latents that are."""
    edits = read_edits(exported)
    tokenizer = embedded_tokenizer()
    examples = edit_examples(edits, vae, tokenizer, False)
    text_encoder = CLIPTextModel.from_pretrained(WEIGHTS / "pipeline" / "text_encoder", dtype=torch.float32)
    pipeline = StableDiffusionInstructPix2PixPipeline(
        vae, text_encoder, tokenizer, widen(tiny_unet()), build_scheduler(), None, None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    given: list[tuple[Tensor, Tensor]] = []
    handle = pipeline.unet.register_forward_pre_hook(
        lambda _, args, kwargs: given.append((args[0], kwargs["encoder_hidden_states"])), with_kwargs=True
    )
    pipeline(CAPTIONS[0], image=Image.fromarray(edits.sources[0]), num_inference_steps=2, output_type="np")
    handle.remove()
    rows, text = given[0]
    told, image, nothing = rows[:, 4:]
    own = examples.sources[0].float()
    torch.testing.assert_close(told, own, atol=2e-3 * float(own.abs().max()), rtol=0)  # kept in float16
    assert torch.equal(told, image)
    assert not nothing.any()
    with torch.no_grad():
        torch.testing.assert_close(text[:1], text_encoder(examples.ids[:1]).last_hidden_state)
        scaled = vae.encode(torch.from_numpy(edits.targets).permute(0, 3, 1, 2) / 127.5 - 1)
    torch.testing.assert_close(
        examples.targets.float(), scaled.latent_dist.mode() * vae.config.scaling_factor, atol=1e-2, rtol=0
    )


def test_a_caption_longer_than_the_tokenizer_allows_is_refused(vae: AutoencoderKL) -> None:
    blank = np.zeros((1, 64, 64, 3), np.uint8)
    with pytest.raises(InputError, match=r"data: a caption has \d+ tokens, allowed are 36"):
        edit_examples(Edits(blank, blank, ("a cat " * 40,)), vae, embedded_tokenizer(), False)


def two_steps(
    file: Path, minutes: float, began: float, model: Any, optimizer: Any, schedule: Any, loss: Any, *rest: Any
) -> None:
    """Stand in for the clock of a training: two steps and the last save."""
    ema, _, on_save = rest
    for step in range(2):
        optimizer.zero_grad()
        total = loss(step)["denoising"]
        total.backward()
        optimizer.step()
        ema.update(model, step)
        assert total.isfinite()
    on_save(2, 60.0)


@pytest.mark.usefixtures("no_tables")
def test_a_training_gives_a_method_of_the_comparison(
    exported: Path, tmp_path: Path, run_dir: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "instruct"
    with monkeypatch.context() as patch:
        patch.setattr(train_instruct, "run_minutes", two_steps)
        train_instruct.main(InstructRecipe(data=exported, batch_size=2, out=out))
    card = json.loads((out / "card.json").read_text())
    assert card["data"].startswith("2 edits of generated pictures by Prompt-to-Prompt, mirrored too")
    unet = UNet2DConditionModel.from_pretrained(out / "unet", dtype=torch.float32)
    assert unet.conv_in.weight[:, 4:].abs().max() > 0
    arguments = (
        *(
            "dataset=inline",
            "dataset.source_prompt=a cat in the snow",
            "metrics=pixel",
            "plots=false",
            "report=false",
        ),
        *("dataset.target_prompt=a dog in the snow", "device=cpu", "sampling.num_inference_steps=2"),
        *("grid=single", "~grid.methods.p2p", f"+grid.methods.instruct_pix2pix_embedded.path={out}"),
    )
    assert cli("run", *arguments, f"run_dir={run_dir}") == 0
    rows = load(run_dir).set_index("method")
    assert sorted(rows.index) == ["instruct_pix2pix_embedded", "source"]
    assert rows.loc["instruct_pix2pix_embedded", "mse@1"] > 0


@pytest.mark.parametrize(
    ("overrides", "command"),
    [
        (
            ("grid=single", "~grid.methods.p2p", "+grid.methods.instruct_pix2pix_embedded.path=nowhere"),
            "make train-instruct",
        ),
        (("model=embedded_flow", "model.path=nowhere"), "make train-flow"),
    ],
)
def test_weights_that_a_command_makes_are_told_by_it(
    overrides: tuple[str, ...], command: str, cli: Cli, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("run", *overrides, "device=cpu", "dataset.limit=1", f"run_dir={run_dir}") == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.endswith(f"no weights at 'nowhere' yet, `{command}` makes them")
    assert not (run_dir / "records").exists()
