"""What a paper cites that shows parts of a report: entries of `citations.bib`, chosen by what is shown."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

_METHODS = {
    "p2p": "hertz2023prompt",
    "p2p_auto_tau": "hertz2023prompt",
    "sdedit": "meng2022sdedit",
    "masactrl": "cao2023masactrl",
    "plug_and_play": "tumanyan2023plug",
    "instruct_pix2pix": "brooks2023instructpix2pix",
    "instruct_pix2pix_embedded": "brooks2023instructpix2pix",
    "ledits_pp": "brack2024ledits",
    "prompt_switch": "shin2025exploring",
    "projections": "shin2025exploring",
    "flowedit": "kulikov2025flowedit",
    "uniedit": "jiao2025uniedit",
}
_INVERSIONS = {
    "ddim": ["song2021denoising"],
    "null_text": ["mokady2023null"],
    "negative_prompt": ["miyake2023negative"],
    "proximal": ["han2024proxedit"],
    "edit_friendly": ["huberman2024edit"],
    "direct": ["ju2024pnp"],
    "rf_solver": ["wang2025taming"],
    "fireflow": ["deng2025fireflow"],
    "rf_inversion": ["rout2025semantic"],
    "uni_inv": ["jiao2025uniedit"],
    "virtual": ["xu2024inversion"],
    "noise_shifted": ["deutch2024turboedit"],
}
_METRICS = {
    "clip_directional": ["gal2022stylegan", "radford2021learning"],
    "clip_local_directional": ["gal2022stylegan", "radford2021learning"],
    "clip": ["radford2021learning"],
    "pickscore": ["kirstain2023pick"],
    "dino_image": ["caron2021emerging", "ruiz2023dreambooth"],
    "dreamsim": ["fu2023dreamsim"],
    "vqascore": ["lin2024evaluating"],
    "lpips": ["zhang2018unreasonable"],
    "ms_ssim": ["wang2003multiscale"],
    "ssim": ["wang2004image"],
    "pie/": ["ju2024pnp"],
}
_PUBLISHED = {
    "pie_bench": ["ju2024pnp"],
    "pie_bench_second_hand": ["ju2024pnp"],
    "magicbrush": ["zhang2023magicbrush"],
}


def citations(rows: pd.DataFrame, metrics: Sequence[str], published: Collection[str]) -> dict[str, Any]:
    """Return the keys that each method, inversion and metric of a run asks for, of all, and the entries.

    `rows` have the columns `method` and `inversion`.
    """
    of_inversion = {name: _INVERSIONS.get(name.split(" ")[0], []) for name in sorted(set(rows["inversion"]))}
    of_metric = {
        name: next((keys for start, keys in _METRICS.items() if name.startswith(start)), [])
        for name in metrics
    }
    parts = {
        "methods": {name: [_METHODS[name]] for name in sorted(set(rows["method"]) & set(_METHODS))},
        "inversions": {name: keys for name, keys in of_inversion.items() if keys},
        "metrics": {name: keys for name, keys in of_metric.items() if keys},
    }
    always = ["hertz2023prompt", *(key for name in sorted(published) for key in _PUBLISHED.get(name, []))]
    used = {*always, *(key for part in parts.values() for keys in part.values() for key in keys)}
    entries = {key: text for key, text in bibliography().items() if key in used}
    return {**parts, "always": always, "entries": entries}


def bibliography() -> dict[str, str]:
    """Return the entries of `citations.bib` by their keys."""
    text = Path(__file__).with_name("citations.bib").read_text(encoding="utf-8")
    entries = re.split(r"\n(?=@)", text.strip())
    return {re.match(r"@\w+\{([^,]+),", entry)[1]: entry.strip() for entry in entries}  # type: ignore[index]
