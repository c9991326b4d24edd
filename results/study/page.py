"""The page of a study: template, style, script and items in one HTML file; pictures lie beside it.

It tells nobody which row a picture is of: pictures and items have opaque names, and the key stays in the run
folder. Each rater has another order and other sides, drawn in the browser.
"""

from pathlib import Path

from results.report.page import json_in_html, one_script, policy, template
from results.study.items import QUESTIONS, VERSION, Study

_HERE = Path(__file__).parent / "page"
_REPORT = Path(__file__).parents[1] / "report" / "page"
STYLES = (_REPORT / "theme.css", _HERE / "study.css")
SCRIPTS = (
    *(_REPORT / name for name in ("elements.js", "prompts.js", "theme.js")),
    *(_HERE / name for name in ("sheet.js", "send.js", "ask.js", "start.js")),
)
"""In the order in which they stand in the page; they share one scope."""


def study_page(study: Study, served: bool = False) -> str:
    """Return the page's HTML. `served` by its own server it sends answers there, else they are a file."""
    style = "\n".join(file.read_text(encoding="utf-8").strip() for file in STYLES)
    script = one_script(file.read_text(encoding="utf-8").strip() for file in SCRIPTS)
    data = {
        "version": VERSION,
        "study": study.digest,
        "served": served,
        "questions": list(QUESTIONS),
        "items": [
            {
                "id": item.id,
                "source": item.source,
                "pictures": item.pictures,
                "source_prompt": item.source_prompt,
                "target_prompt": item.target_prompt,
            }
            for item in study.items
        ],
    }
    return template(_HERE / "study.html").render(
        policy=policy([script], [style], sends=served),
        style=style,
        scripts=[script],
        data=json_in_html(data),
        questions=QUESTIONS,
        count=len(study.items),
        served=served,
    )
