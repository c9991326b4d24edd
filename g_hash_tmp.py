import tempfile, pathlib
from results.store.setting_rows import SETTING_TYPES, write_settings
from tests.results.synthetic import make_row, p2p
import pandas as pd
rows = pd.DataFrame([make_row("cat-dog", 0, "p2p", key="k", **p2p(0.2)), make_row("cat-dog", 0, "sdedit", key="s", strength=0.5)])
d = pathlib.Path(tempfile.mkdtemp())
write_settings(d, rows[list(SETTING_TYPES)])
print([p.name for p in d.rglob("*.parquet")])
