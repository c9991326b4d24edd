"""Names on the model hub: what of them is on this machine, in a cache as huggingface_hub keeps it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from huggingface_hub import constants
from transformers import AutoTokenizer, CLIPTokenizer, PreTrainedTokenizerFast

from p2p import FixedSeed, ModelSpec, edit
from p2p.loading import model_spec
from p2p.loading.pipeline_files import hash_files
from p2p.loading.pipeline_spec import PipelineSpec
from p2p.loading.tokenizer_files import read_tokenizer
from tests.tiny import common_words_tokenizer, save_tiny_pipeline
from tests.tiny_pipelines import save_instruct_pix2pix

NAME, COMMIT = "someone/tiny", "0123456789" * 4
NOT_FETCHED = ("README.md", "tiny.ckpt", "unet/diffusion_pytorch_model.bin")  # diffusers has no use for them
SPEC = ModelSpec("tiny", NAME, 16, 16, device="cpu")
BESIDE = PipelineSpec("StableDiffusionInstructPix2PixPipeline", NAME)
Snapshot = Callable[[Path, bool], Path]


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pipeline whose tokenizer is read in a tenth of the time."""
    return save_tiny_pipeline(tmp_path_factory.mktemp("tiny") / "pipeline", common_words_tokenizer())


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Snapshot:
    """Put a pipeline into an empty cache, as `NAME`, with or without the list of the repository's files."""

    def put(pipeline: Path, listed: bool) -> Path:
        folder = tmp_path / "hub" / "models--someone--tiny"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(COMMIT)
        kept = shutil.copytree(pipeline, folder / "snapshots" / COMMIT)
        if listed:
            own = [str(file.relative_to(kept)) for file in kept.rglob("*") if file.is_file()]
            files = {name: {"size": 1, "blob_id": "0" * 40} for name in [*own, *NOT_FETCHED]}
            (folder / "trees").mkdir()
            (folder / "trees" / f"{COMMIT}.json").write_text(
                json.dumps({"format_version": 1, "files": files})
            )
        return kept

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return put


@pytest.mark.parametrize("listed", [True, False])
def test_a_name_that_was_fetched_is_the_folder_it_came_from(
    tiny_folder: Path, snapshot: Snapshot, listed: bool
) -> None:
    with pytest.raises(OSError, match="'someone/tiny' .it is not on this machine"):
        SPEC.identity()
    folder = snapshot(tiny_folder, listed)
    assert SPEC.local_folder() == folder
    assert SPEC.identity() == ModelSpec("tiny", str(tiny_folder), 16, 16, device="cpu").identity()
    assert len(SPEC.load_tokenizers()) == 1
    assert SPEC.load().image_size == (32, 32)


def test_pictures_of_other_semantics_have_other_keys(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ModelSpec("tiny", str(tiny_folder), 16, 16, device="cpu")
    now = spec.identity()
    monkeypatch.setattr(model_spec, "SEMANTICS_VERSION", model_spec.SEMANTICS_VERSION - 1)
    assert spec.identity() != now


@pytest.mark.parametrize("listed", [True, False])
def test_a_pipeline_beside_the_model_that_was_fetched_is_found(
    tiny_folder: Path, snapshot: Snapshot, listed: bool, tmp_path: Path
) -> None:
    own = save_instruct_pix2pix(tiny_folder, tmp_path / "own")
    assert BESIDE.files.folder() is None
    assert BESIDE.identity() != PipelineSpec(BESIDE.pipeline, str(own)).identity()
    folder = snapshot(own, listed)
    assert BESIDE.files.folder() == folder
    assert BESIDE.identity() == PipelineSpec(BESIDE.pipeline, str(own)).identity()


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    "lost",
    [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer",
        "unet/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ],
)
def test_a_download_that_broke_off_is_not_on_this_machine(
    tiny_folder: Path, snapshot: Snapshot, listed: bool, lost: str
) -> None:
    gone = snapshot(tiny_folder, listed) / lost
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    assert SPEC.local_folder() is None
    with pytest.raises(OSError, match="'someone/tiny' .it is not on this machine"):
        SPEC.load_scheduler()


@pytest.mark.parametrize("listed", [True, False])
def test_weights_in_several_files_are_there_when_all_are(
    tiny_folder: Path, snapshot: Snapshot, listed: bool, tmp_path: Path
) -> None:
    sharded = shutil.copytree(tiny_folder, tmp_path / "sharded")
    unet = sharded / "unet" / "diffusion_pytorch_model"
    names = [f"{unet.name}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    unet.with_suffix(".safetensors").rename(unet.with_name(names[0]))
    unet.with_name(names[1]).write_bytes(b"")
    weight_map = {"conv_in.weight": names[0], "conv_out.weight": names[1]}
    unet.with_name(f"{unet.name}.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    folder = snapshot(sharded, listed)
    assert SPEC.local_folder() == folder
    (folder / "unet" / names[1]).unlink()
    assert SPEC.local_folder() is None


def test_a_part_that_is_left_out_need_not_be_there(tiny_folder: Path, snapshot: Snapshot) -> None:
    folder = snapshot(tiny_folder, False)
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    assert SPEC.local_folder() == folder


def test_another_variant_beside_it_is_no_other_model(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "both")
    alone = hash_files(folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copyfile(weights, half := weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    half.write_bytes(half.read_bytes() + b" ")
    hash_files.cache_clear()
    assert hash_files(folder) == alone
    with_half = hash_files(folder, "fp16")
    assert with_half != alone
    weights.unlink()
    hash_files.cache_clear()
    assert hash_files(folder, "fp16") == with_half  # the other parts have no such variant


def test_what_an_empty_prompt_is_makes_another_model(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "sdxl")
    hashes = {hash_files(folder)}
    index = json.loads((folder / "model_index.json").read_text())
    for zeros in (True, False):
        (folder / "model_index.json").write_text(json.dumps({**index, "force_zeros_for_empty_prompt": zeros}))
        hash_files.cache_clear()
        hashes.add(hash_files(folder))
    assert len(hashes) == 3


@pytest.fixture
def tokenizer_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A tokenizer in a folder that no other test has read."""
    return shutil.copytree(tiny_folder / "tokenizer", tmp_path / "tokenizer")


def test_a_tokenizer_is_read_once_and_is_the_one_on_disk(
    tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk, read = AutoTokenizer.from_pretrained(tokenizer_folder), []
    backend = on_disk.backend_tokenizer.to_str()  # a call with padding changes it

    def counted(folder: Path) -> CLIPTokenizer:
        read.append(folder)
        return on_disk

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", counted)
    first, second = read_tokenizer(tokenizer_folder), read_tokenizer(tokenizer_folder)
    assert read == [tokenizer_folder]
    for tokenizer in (first, second):
        assert type(tokenizer) is CLIPTokenizer
        assert tokenizer.backend_tokenizer.to_str() == backend
        assert tokenizer.init_kwargs == on_disk.init_kwargs
        assert tokenizer("a cat on a bench", padding="max_length") == on_disk(
            "a cat on a bench", padding="max_length"
        )


def test_what_is_done_to_a_tokenizer_reaches_no_other(tokenizer_folder: Path) -> None:
    first = read_tokenizer(tokenizer_folder)
    ids = first("a <mine> cat").input_ids
    first.add_tokens("<mine>")
    first.model_max_length = 3
    assert first("a <mine> cat").input_ids != ids
    second = read_tokenizer(tokenizer_folder)
    assert second("a <mine> cat").input_ids == ids
    assert second.model_max_length == 77


def test_a_tokenizer_that_has_changed_on_disk_is_read_again(tokenizer_folder: Path) -> None:
    assert read_tokenizer(tokenizer_folder).model_max_length == 77
    config = tokenizer_folder / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"model_max_length": 77', '"model_max_length": 16'))
    assert read_tokenizer(tokenizer_folder).model_max_length == 16


def test_a_pipeline_has_the_tokenizer_that_diffusers_would_read(tiny_folder: Path) -> None:
    spec = ModelSpec("tiny", str(tiny_folder), 16, 16, device="cpu")
    ours = spec.load().pipeline.tokenizer
    plain = spec.family.pipeline_class().from_pretrained(tiny_folder).tokenizer
    assert type(ours) is type(plain)
    assert ours.backend_tokenizer.to_str() == plain.backend_tokenizer.to_str()
    assert ours.init_kwargs == plain.init_kwargs
    assert ours is not spec.load().pipeline.tokenizer


def test_a_tokenizer_of_another_class_than_planned_is_the_pipelines_own(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """The class that a pipeline's index names may read the files in another way than the planned one."""
    folder = shutil.copytree(tiny_folder, tmp_path / "other")
    index = json.loads((folder / "model_index.json").read_text())
    index["tokenizer"] = ["transformers", "PreTrainedTokenizerFast"]
    (folder / "model_index.json").write_text(json.dumps(index))
    spec = ModelSpec("tiny", str(folder), 16, 16, device="cpu")
    assert type(spec.load().pipeline.tokenizer) is PreTrainedTokenizerFast
    assert type(read_tokenizer(folder / "tokenizer")) is CLIPTokenizer


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ("ImagicPipeline", "pipeline: 'ImagicPipeline' is not one of StableDiffusionPipeline, "),
        ("no_such_package.Family", "pipeline: 'no_such_package.Family' cannot be imported"),
        ("p2p.families.Absent", "pipeline: 'p2p.families.Absent' cannot be imported"),
    ],
)
def test_a_pipeline_of_no_family_is_one_line(tiny_folder: Path, pipeline: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelSpec("tiny", str(tiny_folder), 16, 16, pipeline=pipeline, device="cpu")


@pytest.mark.filterwarnings("ignore:The configuration file of this scheduler:FutureWarning")
def test_what_the_pipelines_class_corrects_of_an_old_scheduler_is_corrected(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """Of Stable Diffusion's class; one's own word holds."""
    folder = shutil.copytree(tiny_folder, tmp_path / "pipeline")
    file = folder / "scheduler" / "scheduler_config.json"
    old = {**json.loads(file.read_text()), "steps_offset": 0}
    del old["clip_sample"]  # true by default
    file.write_text(json.dumps(old))
    model = ModelSpec("old", str(folder), 16, 16, device="cpu").load()
    ours = edit(model, "a cat on a bench", [("a dog on a bench", FixedSeed())], 3, num_inference_steps=4)
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    theirs = pipeline(
        "a cat on a bench",
        num_inference_steps=4,
        generator=torch.Generator().manual_seed(3),
        output_type="pt",
    ).images[0]
    assert float((ours.source - theirs).abs().max()) < 2 / 255  # 0.8 without the corrections
    own = ModelSpec("old", str(folder), 16, 16, device="cpu", scheduler_config={"steps_offset": 0})
    assert own.load_scheduler().config.steps_offset == 0
    assert own.load_scheduler().config.clip_sample is False


def test_files_that_do_not_fit_each_other_are_one_line(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "pipeline")
    file = folder / "unet" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "dual_cross_attention": True}))
    with pytest.raises(OSError, match=r"^model odd: no weights at '.*pipeline' \(.+\)$"):
        ModelSpec("odd", str(folder), 16, 16, device="cpu").load()
