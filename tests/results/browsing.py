"""What the tests of pages in a browser share: the screens that a page is seen on, and what axe finds."""

from typing import Any

import pytest

CONTEXTS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True},
    "narrow": {"viewport": {"width": 320, "height": 640}, "color_scheme": "dark"},
    "forced colours": {"forced_colors": "active"},
    "little motion": {"reduced_motion": "reduce"},
}
SCREENS = [
    name if name in ("light", "dark", "phone") else pytest.param(name, marks=pytest.mark.slow)
    for name in CONTEXTS
]
"""For axe, which takes seconds: those of other colours or another layout always run."""
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def violations(page: Any, axe: str) -> list[Any]:
    page.evaluate(axe)  # not add_script_tag: the page's own policy would stop it
    found = page.evaluate(
        "tags => axe.run(document, {runOnly: {type: 'tag', values: tags}, resultTypes: ['violations']})", TAGS
    )
    assert len(found["passes"]) > 20  # of a blank page nothing is wrong either
    return [(one["id"], [node["target"] for node in one["nodes"]][:3]) for one in found["violations"]]
