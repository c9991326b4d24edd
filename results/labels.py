"""What things are called in tables and pictures: metrics, methods, untrusted text.

Prompts, ids and labels come from users' files; whatever is put into Markdown or LaTeX passes through here.
"""

import re
import unicodedata
from collections.abc import Mapping

import pandas as pd

PUBLISHED: dict[str, int] = {
    "pie/structure_distance": 3,
    "pie/psnr": 0,
    "pie/lpips": 3,
    "pie/mse": 4,
    "pie/ssim": 2,
    "pie/clip_similarity_source_image": 0,
    "pie/clip_similarity_target_image": 0,
    "pie/clip_similarity_target_image_edit_part": 0,
}
"""Columns of PIE-Bench's table (Ju et al. 2024), in its order: a value is shown times 10 to this power.

The publication leaves the source image out, which no method changes: it shows whether CLIP is the right one.
"""
METHODS: dict[str, str] = {
    "source": "source image",
    "reconstruction": "reconstruction",
    "ideal": "ideal edit",
    "fixed_seed": "fixed seed",
    "p2p": "Prompt-to-Prompt",
    "p2p_auto_tau": "Prompt-to-Prompt, auto τ",
    "sdedit": "SDEdit",
    "masactrl": "MasaCtrl",
    "plug_and_play": "Plug-and-Play",
    "instruct_pix2pix": "InstructPix2Pix",
    "instruct_pix2pix_embedded": "InstructPix2Pix, embedded",
    "ledits_pp": "LEDITS++",
    "prompt_switch": "Prompt switch",
    "projections": "P2P by projections",
    "flowedit": "FlowEdit",
    "uniedit": "UniEdit-Flow",
}
_METRICS: dict[str, tuple[str, str]] = {
    "clip_source": ("CLIP to source prompt", "CLIP source"),
    "clip_target": ("CLIP to target prompt", "CLIP target"),
    "clip_directional": ("CLIP directional", "CLIP dir."),
    "clip_local_directional": ("CLIP directional in the mask's box", "CLIP dir., box"),
    "clip_image": ("CLIP to source image", "CLIP image"),
    "pickscore": ("PickScore for the target prompt", "PickScore"),
    "dino_image": ("DINO to source image", "DINO"),
    "dreamsim": ("DreamSim to source image", "DreamSim"),
    "vqascore": ("VQAScore for the target prompt", "VQAScore"),
    "lpips": ("LPIPS to source image", "LPIPS"),
    "ms_ssim": ("MS-SSIM to source image", "MS-SSIM"),
    "ssim": ("SSIM to source image", "SSIM"),
    "psnr": ("PSNR to source image, dB", "PSNR, dB"),
    "mse": ("MSE to source image", "MSE"),
    "chosen_tau": ("chosen τ", "chosen τ"),
    "ideal/mse": ("MSE to the ideal edit", "MSE to ideal"),
    "ideal/mse_edited": ("MSE to the ideal edit, where it changes the source", "ideal, edited"),
    "ideal/mse_unedited": ("MSE to the ideal edit, where it keeps the source", "ideal, kept"),
    "judge/edit_success": ("edit made, by the judge", "edit made"),
    "judge/area": ("area of things, pixels, by the judge", "area, px"),
    "judge/area_share": ("area of things, share, by the judge", "area, share"),
    "judge/mse_outside": ("MSE outside things, by the judge", "MSE, outside"),
    "pie/structure_distance": ("PIE structure distance", "structure"),
    "pie/psnr_unedit": ("PIE PSNR outside the mask, dB", "PSNR, dB"),
    "pie/lpips": ("PIE LPIPS outside the mask", "LPIPS"),
    "pie/mse_unedit": ("PIE MSE outside the mask", "MSE"),
    "pie/ssim_unedit": ("PIE SSIM outside the mask", "SSIM"),
    "pie/clip_similarity_source_image": ("PIE CLIP of the source image", "CLIP source"),
    "pie/clip_similarity_target_image": ("PIE CLIP of the whole image", "CLIP whole"),
    "pie/clip_similarity_target_image_edit_part": ("PIE CLIP of the edited part", "CLIP edited"),
}
"""Metrics by how their columns begin: spelled out, and as short as a table's column."""
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "²": r"$^2$", "³": r"$^3$", "⁴": r"$^4$",
    "|": r"\textbar{}", '"': "''", "τ": r"$\tau$", "×": r"$\times$", "–": "--", "—": "---",
    "≤": r"$\leq$", "≥": r"$\geq$",
}  # fmt: skip


def arrow(metric: str, directions: Mapping[str, bool]) -> str:
    """Return ↑ where higher is better, ↓ where lower is, "" where neither is said."""
    return {True: "↑", False: "↓", None: ""}[directions.get(metric)]


def metric_label(metric: str) -> str:
    """Spell a metric column out, with backbone and version: `lpips_embedded@1`, LPIPS ... (embedded@1)."""
    if prefix := _prefix(metric):
        return f"{_METRICS[prefix][0]} ({_backbone(metric, prefix)})"
    return metric


def short_label(metric: str) -> tuple[str, str]:
    """Return a metric's two lines in a narrow column: what it is, scaling included; backbone and version."""
    name, times, scale = metric.partition(" ×")
    prefix = _prefix(name)
    if not prefix:
        name, at, version = name.partition("@")
        return f"{name}{times}{scale}", at and f"version {version}"
    of = "PIE, " if prefix.startswith("pie/") else ""
    return f"{_METRICS[prefix][1]}{times}{scale}", of + _backbone(name, prefix)


def _prefix(metric: str) -> str:
    """Return the longest of the known beginnings of a metric's column, "" where it has none."""
    return max((prefix for prefix in _METRICS if metric.startswith(prefix)), key=len, default="")


def _backbone(metric: str, prefix: str) -> str:
    told = metric.removeprefix(prefix).lstrip("_").replace("_unedit@", "@")
    return told.replace("@", "version ", 1) if told.startswith("@") else told


def published_order(metric: str) -> int | None:
    """Return the place of a metric in the published table, None where it has none; any backbone counts."""
    prefixes = [prefix for prefix in PUBLISHED if metric.startswith(prefix)]
    return list(PUBLISHED).index(max(prefixes, key=len)) if prefixes else None


def published_scale(metric: str) -> tuple[float, str]:
    """Return the factor by which the published table shows a metric, and how a heading says so: " ×10³"."""
    place = published_order(metric)
    power = 0 if place is None else list(PUBLISHED.values())[place]
    return 10.0**power, {0: "", 2: " ×10²", 3: " ×10³", 4: " ×10⁴"}[power]


def published_name(metric: str) -> str:
    """Return a metric's name as the published table's heading has it, with its scaling."""
    return metric + published_scale(metric)[1]


def method_label(method: str) -> str:
    """Spell a method out."""
    return METHODS.get(method, method)


def variant_label(variant: str) -> str:
    """Spell a variant out as figures and papers name it: "LocalBlend" where it is `local_blend=true`."""
    words = {"local_blend=true": "LocalBlend", "local_blend=false": "no LocalBlend"}
    return ", ".join(words.get(part, part) for part in variant.split(", "))


def escape_markdown(text: str) -> str:
    """Make untrusted text safe in a Markdown table cell, also where the Markdown is rendered to HTML."""
    text = _one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # An underscore within a word is literal, and most metric names have one.
    return re.sub(r"([\\`*\[\]|#~$!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", text)


def escape_latex(text: str) -> str:
    """Make untrusted text safe in a LaTeX table's cell; letters of other scripts are left to the engine."""
    escaped = "".join(_LATEX.get(letter, letter) for letter in _one_line(text))
    # After the end of a row, \\, LaTeX takes a bracket for a length and drops a star.
    return re.sub(r"^[\[*]", r"{\g<0>}", escaped)


def escape_formula(value: object) -> object:
    """Put an apostrophe before a text that a spreadsheet would evaluate; what reads as a number stays."""
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def csv_text(table: pd.DataFrame) -> str:
    """Return a table as CSV, numbers in full, no text of which a spreadsheet evaluates."""
    texts = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    safe = table.assign(**{name: table[name].map(escape_formula) for name in texts})
    return str(safe.to_csv(index=False, lineterminator="\n"))


def _one_line(text: str) -> str:
    """Return a text with its white space closed up, and without control characters."""
    letters = (letter for letter in " ".join(str(text).split()) if unicodedata.category(letter) != "Cc")
    return "".join(letters)


def escape_mathtext(text: str) -> str:
    """Make untrusted text safe in matplotlib, where a pair of dollars opens mathematics."""
    return str(text).replace("$", r"\$")


_NUMBER = re.compile(r"(?:(?<!\w)-)?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def by_numbers(text: str) -> tuple[str, tuple[float, ...]]:
    """Sort key that puts ×-1 before ×-0.5 and ×2 before ×10; texts alike but for numbers go by these."""
    return _NUMBER.sub("", text), tuple(map(float, _NUMBER.findall(text)))


def natural_order(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts pair-2 before pair-10."""
    parts = re.split(r"(\d+)", text)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part)
