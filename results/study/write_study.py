"""From a run folder to a study's page: `study/page/` to hand out, and `study/study.json`, which stays."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from results import summary
from results.store.picture_files import Digest, read_picture
from results.store.records import load_records
from results.store.whole_files import whole_folder
from results.study.choice import StudyChoice
from results.study.items import Study, make_study, read_study
from results.study.page import study_page
from results.study.study_folder import StudyFolder
from results.tables import auto_tau


def write_study(
    run_dir: Path, choice: StudyChoice, *, settings: pd.DataFrame | None = None
) -> tuple[Study, Path]:
    """Write the study of a run, whole or not at all; return it and the path of its page.

    One that is there and equal stays. `settings` is as in `results.summary.summarise`. ValueError where the
    run has no two rows to compare, a picture is damaged, or another study is there; FileNotFoundError where
    the run has no records, or a picture is gone.
    """
    folder = StudyFolder(run_dir)
    frame, _ = summary.run_rows(run_dir, settings)
    cells = summary.run_cells(frame, auto_tau.load_candidates(run_dir))
    recorded = load_records(run_dir).drop_duplicates("image").set_index("image")
    study = make_study(cells, recorded["image_sha256"].to_dict(), choice)
    if folder.key.exists():
        if read_study(folder.key).digest == study.digest:
            return study, folder.page
        raise ValueError(
            f"{folder.root}: holds another study, and answers to it would be of no use; move it away first"
        )
    with whole_folder(folder.root) as partial:
        (partial / folder.picture("").relative_to(folder.root)).parent.mkdir(parents=True)
        for name, path in study.files.items():
            told = recorded.loc[path] if path in recorded.index else None
            digest = None if told is None else Digest(told["image_sha256"], int(told["image_bytes"]))
            target = partial / folder.picture(name).relative_to(folder.root)
            target.write_bytes(_bare(read_picture(Path(run_dir) / path, digest)))
        (partial / folder.page.relative_to(folder.root)).write_text(study_page(study), encoding="utf-8")
        (partial / folder.key.name).write_text(study.to_json(), encoding="utf-8")
    return study, folder.page


def described(study: Study) -> str:
    """Say in a line what a study asks."""
    checks = sum(bool(item.right) for item in study.items)
    pairs = len({item.pair for item in study.items if not item.right})
    return (
        f"{' / '.join(study.rows)}, on {pairs} {'pair' if pairs == 1 else 'pairs'}: "
        f"{len(study.items) - checks} comparisons and {checks} attention checks"
    )


def _bare(image: Image.Image) -> bytes:
    """Return a picture as PNG without whatever its file told beside its pixels, such as a prompt."""
    content = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(content, format="PNG")
    return content.getvalue()
