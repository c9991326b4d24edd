"""Where a pipeline comes from, and what a plan needs before weights are loaded: tokenizer, scheduler,
identity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2p.alignment import Tokenizers
from p2p.compiling import EAGER, check_compiler
from p2p.devices import default_dtype, exact_float32, resolve_device
from p2p.families import FAMILIES, family_of
from p2p.families.model import Model, encoder_of, tokenizer_of
from p2p.loading.folder_checks import folder_problem
from p2p.loading.loras import Lora, load_loras
from p2p.loading.pipeline_files import DTYPES, PipelineFiles, hash_files, read_object
from p2p.loading.plain_ddim import NAME, PlainDDIM
from p2p.loading.plain_tokenizer import PlainTokenizer
from p2p.loading.tokenizer_files import clip_tokenizer, read_tokenizer
from p2p.schedulers import check_agreement, check_settings, corrections, new_scheduler, scheduler_class

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN = "StableDiffusionPipeline"  # whose files a plan can read without diffusers and transformers
UPSCALED = ("IFPipeline", "IFSuperResolutionPipeline")
SHARED = ("tokenizer", "text_encoder")  # by a model and its upscaler
SEMANTICS_VERSION = 4  # raised whenever the same edit would give other pixels


@dataclass(frozen=True)
class ModelSpec:
    """Where a pipeline comes from and how it is run; `load()` gives the `Model`.

    `path` is a folder or a model-hub name. `pipeline` is the name of diffusers' pipeline class, which says
    which family the model is of, or the import path of an adapter of your own. `device` "auto" is CUDA where
    there is one, else Apple's MPS, else the CPU. `dtype` None becomes float32 on the CPU and the family's
    `half_precision` elsewhere, here and for good: a spec that another machine is given keeps its precision,
    as the keys of its images do. `scheduler` is the name of a diffusers scheduler class; its config is the
    pipeline's own with `scheduler_config` on top. `clip_tokenizer` says that the tokenizer is CLIP's, so that
    planning needs no download. `loras` are mappings of a safetensors file's `path` and, optionally, its
    `scale`. `upscaler` is the model of a second stage, run on the images of this one. `leave_out` names text
    encoders that are not loaded, where the family can do without. `compile` has steps call the denoiser
    compiled; like the device it is no part of `identity`. `made_by` is the command that makes the folder
    `path`, for an error where it is not there.
    """

    name: str
    path: str
    self_max_side: int
    blend_side: int
    pipeline: str = "StableDiffusionPipeline"
    dtype: str | None = None
    device: str = "auto"
    scheduler: str | None = None
    scheduler_config: Mapping[str, Any] = field(default_factory=dict)
    clip_tokenizer: bool = False
    revision: str | None = None
    variant: str | None = None
    height: int | None = None
    width: int | None = None
    loras: Sequence[Mapping[str, Any]] = ()
    upscaler: ModelSpec | None = None
    leave_out: Sequence[str] = ()
    carried_over: Sequence[str] = ()
    compile: bool = False
    made_by: str = ""

    def __post_init__(self) -> None:
        if unknown := set(self.leave_out) - set(self.family.can_leave_out):
            allowed = ", ".join(self.family.can_leave_out) or "none"
            raise ValueError(f"leave_out: {sorted(unknown)} of {self.pipeline}, allowed are {allowed}")
        if self.upscaler and (self.pipeline, self.upscaler.pipeline) != UPSCALED:
            raise ValueError(
                f"upscaler: {self.upscaler.pipeline} of a {self.pipeline}, allowed is "
                "IFSuperResolutionPipeline of an IFPipeline"
            )
        if self._loras() and not hasattr(self.family.pipeline_class(), "load_lora_weights"):
            raise ValueError(f"loras: {self.pipeline} of diffusers takes none")
        device = resolve_device(self.device, elsewhere=True)
        if self.dtype is None:
            object.__setattr__(self, "dtype", default_dtype(device, self.family.half_precision))
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: {self.dtype!r} is not one of {', '.join(map(repr, DTYPES))}, or None")
        if self.dtype == "float64" and device.type == "mps":
            raise ValueError("dtype: 'float64' is not on mps, allowed are 'float32', 'float16', 'bfloat16'")
        if not isinstance(self.compile, bool):
            raise ValueError(f"compile: {self.compile!r} is not true or false")
        if self.compile and not self.family.compiles:
            raise ValueError(
                f"compile: {self.pipeline} gives its transformer lists, as long as prompts are, {EAGER}"
            )
        if self.scheduler is not None:
            scheduler_class(self.scheduler)

    @property
    def family(self) -> type[Model]:
        """The adapter class."""
        family: type[Model] = family_of(self.pipeline)
        return family

    def _loras(self) -> list[Lora]:
        return [Lora.of(entry) for entry in self.loras]

    @property
    def files(self) -> PipelineFiles:
        """Where the pipeline is and how it is read."""
        own = {"revision": self.revision, "variant": self.variant, "use_safetensors": True}
        left_out = {part: None for name in self.leave_out for part in (name, tokenizer_of(name))}
        options = {**own, **self.family.load_options}
        kind = self.family.pipeline_class
        return PipelineFiles(f"model {self.name}", self.path, kind, options, left_out, self.made_by)

    def local_folder(self) -> Path | None:
        """Return the pipeline's folder on this machine, or None where it would have to be fetched."""
        return self.files.folder()

    def check(self) -> None:
        """Raise ValueError where the folder on this machine is not of the spec's pipeline, by its files."""
        if self.upscaler is not None:
            self.upscaler.check()
        if (folder := self.local_folder()) is None:
            return
        files = self.files
        left_out = [name for name, value in {**files.options, **files.left_out}.items() if value is None]
        sized = self.height is not None and self.width is not None
        if problem := folder_problem(folder, self.pipeline, self.family, left_out, sized):
            raise ValueError(f"{files.owner}: {self.path!r} cannot be run, {problem}")

    def load_tokenizers(self) -> Tokenizers:
        """Return the tokenizers, from the pipeline's folder or, for CLIP's, from open_clip's vocabulary."""
        folder = self.local_folder()
        names = self.family.text_blocks
        if folder is not None:
            if self.pipeline == PLAIN and (plain := PlainTokenizer.of(folder / "tokenizer")) is not None:
                return self.family.aligned_tokenizers({"tokenizer": plain})
            own = {
                name: None if encoder_of(name) in self.leave_out else read_tokenizer(folder / name)
                for name in names
            }
        elif self.clip_tokenizer:
            own = dict.fromkeys(names, clip_tokenizer())
        else:
            raise self.files.unavailable(
                f"it is not on this machine, and planning needs its {' and '.join(names)}"
            )
        return self.family.aligned_tokenizers(own)

    def load_scheduler(self) -> Any:
        """Return the scheduler, timesteps not set. Raises ValueError for one that cannot be had."""
        name, own = self._stated_scheduler()
        check_settings(name, self.scheduler_config)
        if self.local_folder() is not None:
            own |= corrections(name, self.family.scheduler_corrections)
        return new_scheduler(name, {**own, **self.scheduler_config})

    def _stated_scheduler(self) -> tuple[object, dict[str, Any]]:
        """Return the name of the scheduler's class and the config of the pipeline's own, {} without a folder.

        Raises ValueError and OSError for one that cannot be had.
        """
        folder = self.local_folder()
        if folder is None and not (self.scheduler and self.scheduler_config):
            raise self.files.unavailable("it is not on this machine, and the model states no whole scheduler")
        own: dict[str, Any] = {}
        if folder is not None:
            own = read_object(folder / "scheduler" / "scheduler_config.json")
            check_agreement(self.path, own, self.scheduler_config, self.carried_over)
        return self.scheduler or own.get("_class_name"), own

    def plain_scheduler(self) -> PlainDDIM | None:
        """Return what a plan asks of the scheduler, None where only diffusers can tell."""
        name, own = self._stated_scheduler()
        if self.pipeline != PLAIN:
            return None
        return PlainDDIM.of(name, {**own, **self.family.scheduler_corrections, **self.scheduler_config})

    def _scheduler_identity(self) -> list[Any]:
        """Return class and whole config of the scheduler, as they are part of `identity`."""
        if (plain := self.plain_scheduler()) is not None:
            return [NAME, dict(plain.config)]
        scheduler = self.load_scheduler()
        config = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
        return [type(scheduler).__name__, config]

    def unet_calls(self, num_inference_steps: int) -> int:
        """Return how often one trajectory calls the UNet. Raises ValueError where it cannot be run so."""
        plain = self.plain_scheduler()
        if plain is not None and (calls := plain.calls(num_inference_steps)) is not None:
            return calls
        return self.family.set_timesteps(self.load_scheduler(), num_inference_steps)

    def guidance_embedded(self) -> bool:
        """Say whether the denoiser is told the guidance scale, so that there are no unconditional rows.

        Read from its config and the pipeline's index alone; a model whose config is not here yet is taken to
        be an ordinary one of its family.
        """
        folder = self.local_folder()
        index = read_object(folder / "model_index.json") if folder else {}
        return self.family.embeds_guidance({**index, **self._denoiser_config()})

    def joint_blocks(self) -> dict[str, int | None]:
        """Return how many blocks of joint attention the denoiser has, by stream, {} where it has none such.

        Read from its config alone; None where that is not here yet.
        """
        return self.family.count_blocks(self._denoiser_config()) if self.family.joint_blocks else {}

    def attention_heads(self) -> int | None:
        """Return how many heads every attention layer has; None where its config does not say."""
        return self.family.count_heads(self._denoiser_config())

    def _denoiser_config(self) -> dict[str, Any]:
        """Return the config of the denoiser, {} where it is not here."""
        folder = self.local_folder()
        files = [folder / part / "config.json" for part in ("unet", "transformer")] if folder else []
        return next((read_object(f) for f in files if f.is_file()), {})

    def upscaler_calls(self, num_inference_steps: int) -> int:
        """Return how often one trajectory calls the upscaler's UNet; 0 without an upscaler."""
        return self.upscaler.unet_calls(num_inference_steps) if self.upscaler else 0

    def fetch(self) -> None:
        """Bring the weights to this machine, so that `identity` speaks of them. Raises OSError.

        A download that broke off goes on; without a network, what is here has to do.
        """
        if self.upscaler is not None:
            self.upscaler.fetch()
        self.files.fetch()

    def identity(self) -> str:
        """Return a hash of all that the model contributes to the pixels.

        Weights that are not on this machine yet are named by path, revision and variant.
        """
        folder = self.local_folder()
        facts: dict[str, Any] = {
            "semantics": SEMANTICS_VERSION,
            "weights": hash_files(folder, self.variant)
            if folder
            else [self.path, self.revision, self.variant],
            "scheduler": self._scheduler_identity(),
            "run": [self.dtype, self.variant, self.self_max_side, self.blend_side, self.height, self.width],
        }
        if self.pipeline not in FAMILIES:  # an adapter of one's own may make other images of one folder
            facts["family"] = self.pipeline
        if self.leave_out:
            facts["left_out"] = sorted(self.leave_out)
        if self.loras:
            facts["loras"] = [lora.identity() for lora in self._loras()]
        if self.upscaler is not None:
            facts["upscaler"] = self.upscaler.identity()
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()

    def load(self, components: Mapping[str, Any] | None = None) -> Model:
        """Load the weights. Raises OSError in one line where they cannot be had, ValueError for a device that
        is not here or cannot compile, torch.OutOfMemoryError for one with too little memory.

        `components` are parts of the pipeline that are there already. For CUDA, float32 is made exact first
        (see `exact_float32`), for the whole process.
        """
        device = resolve_device(self.device)
        self.check()
        if device.type == "cuda":
            exact_float32()
        if self.compile:
            check_compiler(device)
        files, parts = self.files, dict(components or {})
        if (folder := files.folder()) is not None:
            parts = {**files.checked(self._read_tokenizers, folder, {*files.left_out, *parts}), **parts}
        pipeline = files.read(str(self.dtype), parts)
        pipeline.scheduler = self.load_scheduler()
        warnings = load_loras(pipeline, self._loras())
        files.place(pipeline, device)
        shared = {name: getattr(pipeline, name) for name in SHARED} if self.upscaler else {}
        upscaler = self.upscaler.load(shared) if self.upscaler else None
        sides = self.self_max_side, self.blend_side
        model: Model = self.family(
            pipeline, *sides, self.height, self.width, upscaler, warnings, self.compile
        )
        if self.compile and self.pipeline != UPSCALED[1]:  # which has to be told of an image
            model.check_compiles()
        return model

    def _read_tokenizers(self, folder: Path, aside: Collection[str]) -> dict[str, PreTrainedTokenizerBase]:
        """Return the tokenizers that planning read, by name, without `aside`, to be given to the pipeline.

        A tokenizer whose class in model_index.json is another than planning's is left for diffusers to read.
        """
        import transformers

        index = read_object(folder / "model_index.json")
        read = {}
        for name in set(self.family.text_blocks) - set(aside):
            library, kind = index.get(name, (None, None))
            if library == "transformers":
                tokenizer = read_tokenizer(folder / name)
                if type(tokenizer) is getattr(transformers, kind, None):
                    read[name] = tokenizer
        return read
