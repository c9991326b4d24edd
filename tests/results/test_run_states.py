"""What `p2p-bench ls RUN` says of a run agrees with the run's tables."""

from pathlib import Path

import pandas as pd

from results.run_states import run_state
from results.store.setting_rows import SETTING_TYPES, write_settings
from results.summary import summarise
from tests.results.synthetic import PAIRS, make_frame, make_metrics, write_run


def test_means_are_those_of_the_main_table_without_re_weighting(tmp_path: Path) -> None:
    frame = make_frame(list(PAIRS))
    once = frame["pair_id"].eq("cat-dog") & frame["seed"].eq(1)  # whose other seed counts as much as two
    frame = frame[~once]
    write_run(tmp_path, frame, make_metrics(frame))
    # One pair's picture at tau 0 is that of a second variant too, which has it alone.
    asked = frame[list(SETTING_TYPES)]
    other = asked[frame["method"].eq("p2p") & frame["pair_id"].eq("cat-dog") & frame["tau"].eq(0.0)]
    other = other.assign(params='{"tau": 0.0, "local_blend": true}')
    write_settings(tmp_path, pd.concat([asked, other], ignore_index=True))
    main = summarise(tmp_path, draw=False).tables["main"].query("edit_type == 'all' and weighting == ''")
    told = {line.split(":")[0].split(" (")[0]: line.split(": ")[1] for line in run_state(tmp_path).headline}
    for method, label in (("fixed_seed", "fixed seed"), ("p2p", "Prompt-to-Prompt"), ("sdedit", "SDEdit")):
        for metric in ("clip_directional_embedded@1", "lpips_embedded@1"):
            means = main.loc[main["method"].eq(method) & main["metric"].eq(metric), "mean"]
            ends = list(dict.fromkeys(f"{end:.3g}" for end in (means.min(), means.max())))
            assert f"{metric} {' to '.join(ends)}" in told[label]
