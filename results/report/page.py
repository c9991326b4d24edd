"""The page itself: a Jinja2 template with its style, scripts and data in one HTML file.

Everything stands inline, as a page opened from a folder may load neither modules nor data. A content security
policy names each script and style by its hash: what a prompt or an id could smuggle in never runs.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

HERE = Path(__file__).parent
STYLES = ("theme.css", "layout.css", "parts.css", "viewer.css", "print.css")
SCRIPTS = (
    *("elements.js", "run.js", "words.js", "prompts.js", "theme.js", "filters.js", "estimates.js"),
    *("export.js", "table.js", "behind.js", "trade_off.js", "trade_off_dots.js", "tau_map.js", "virtual.js"),
    *("cards.js", "gallery.js", "cases.js", "viewer.js", "start.js"),
)
"""In the order in which they stand in the page; they share one scope."""
VENDOR = ("d3", "plot")
"""Libraries of `vendor/`, each with its licence, which goes into the page with it."""
PLOT_STYLE = """:where(.chart) {
  --plot-background: white;
  display: block;
  height: auto;
  height: intrinsic;
  max-width: 100%;
}
:where(.chart text),
:where(.chart tspan) {
  white-space: pre;
}"""
"""What Observable Plot 0.6.17 puts into a drawing of class `chart`; the policy lets it through."""


def render(data: Mapping[str, Any], **values: Any) -> str:
    """Return the page's HTML. `data` is for its scripts, `values` for its template; neither is trusted."""
    style = "\n".join(_read("page", name) for name in STYLES)
    library = "\n".join(
        f"/*\n{_read('vendor', name + '.LICENSE')}\n*/\n{_read('vendor', name + '.min.js')}"
        for name in VENDOR
    )
    script = one_script(_read("page", name) for name in SCRIPTS)
    return template(HERE / "page" / "page.html").render(
        policy=policy([library, script], [style, PLOT_STYLE]),
        style=style,
        scripts=[library, script],
        data=json_in_html(data),
        **values,
    )


def one_script(texts: Iterable[str]) -> str:
    """Return scripts as one, in a scope of their own."""
    return "(() => {\n'use strict';\n" + "\n".join(texts) + "\n})();"


def template(file: Path) -> Template:
    """Return a page's template, whose head and scripts are those of `page/base.html`.

    What is put into it is escaped, and a name that it lacks is an error.
    """
    environment = Environment(
        loader=FileSystemLoader([file.parent, HERE / "page"]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(file.name)


def json_in_html(value: Any) -> str:
    """Return JSON that nothing in it can end: `<`, `>`, `&`, U+2028, U+2029, lone surrogates are escaped.

    ValueError where a number is not finite, which JSON has no word for.
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return "".join(f"\\u{ord(sign):04x}" if "\ud800" <= sign <= "\udfff" else sign for sign in text)


def policy(scripts: list[str], styles: list[str], sends: bool = False) -> str:
    """Return a content security policy: these scripts and styles, pictures from beside the page, no more.

    From a folder 'self' means every local file, and no server. One that `sends` may ask its own server.
    """
    hashed = {"script-src": scripts, "style-src": styles}
    sources = [f"{name} {' '.join(map(_hash, texts))}" for name, texts in hashed.items()]
    sources += ["connect-src 'self'"] if sends else []
    return "; ".join(
        ["default-src 'none'", "img-src 'self' data:", *sources, "base-uri 'none'", "form-action 'none'"]
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _read(folder: str, name: str) -> str:
    return (HERE / folder / name).read_text(encoding="utf-8").strip()
