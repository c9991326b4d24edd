"""What things are called in tables and pictures: metrics with their direction, methods, untrusted text.

Prompts, ids and labels come from users' files; whatever is put into Markdown or LaTeX passes through here.
"""

import re
from collections.abc import Mapping

HIGHER_IS_BETTER: dict[str, bool] = {
    "clip_target": True,
    "clip_directional": True,
    "clip_image": True,
    "ms_ssim": True,
    "ssim": True,
    "psnr": True,
    "lpips": False,
    "mse": False,
}
METHODS: dict[str, str] = {
    "source": "source image",
    "reconstruction": "reconstruction",
    "fixed_seed": "fixed seed",
    "p2p": "Prompt-to-Prompt",
    "sdedit": "SDEdit",
}
_METRICS = {
    "clip_source": "CLIP to source prompt",
    "clip_target": "CLIP to target prompt",
    "clip_directional": "CLIP directional",
    "clip_image": "CLIP to source image",
    "lpips": "LPIPS to source image",
    "ms_ssim": "MS-SSIM to source image",
    "ssim": "SSIM to source image",
    "psnr": "PSNR to source image, dB",
    "mse": "MSE to source image",
}
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "τ": r"$\tau$", "×": r"$\times$", "–": "--", "—": "---",
}  # fmt: skip


def higher_is_better(metric: str, directions: Mapping[str, bool] | None = None) -> bool | None:
    """Say whether larger values are better: by full name in `directions`, else by prefix, else None."""
    if directions and metric in directions:
        return directions[metric]
    return next((up for prefix, up in HIGHER_IS_BETTER.items() if metric.startswith(prefix)), None)


def arrow(metric: str, directions: Mapping[str, bool] | None = None) -> str:
    """Return ↑ or ↓, "" where the direction is unknown."""
    return {True: "↑", False: "↓", None: ""}[higher_is_better(metric, directions)]


def metric_label(metric: str) -> str:
    """Spell a metric column out, with backbone and version: `lpips_embedded@1`, LPIPS ... (embedded@1)."""
    for prefix in sorted(_METRICS, key=len, reverse=True):
        if metric.startswith(prefix):
            backbone = metric.removeprefix(prefix).lstrip("_")
            return f"{_METRICS[prefix]} ({backbone.replace('@', 'version ', backbone.startswith('@'))})"
    return metric


def method_label(method: str) -> str:
    """Spell a method out."""
    return METHODS.get(method, method)


def escape_markdown(text: str) -> str:
    """Make untrusted text safe in a Markdown table cell, also where the Markdown is rendered to HTML."""
    text = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # An underscore within a word is literal, and most metric names have one.
    return re.sub(r"([\\`*\[\]|#~$!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", text)


def escape_latex(text: str) -> str:
    """Make untrusted text safe in LaTeX; letters of other scripts are left to the engine."""
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(str(text).split()))


def escape_mathtext(text: str) -> str:
    """Make untrusted text safe in matplotlib, where a pair of dollars opens mathematics."""
    return str(text).replace("$", r"\$")


def natural_order(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts pair-2 before pair-10."""
    parts = re.split(r"(\d+)", text)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part)
