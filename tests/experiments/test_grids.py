"""Axes inside of parameters that are mappings, and the cells they make."""

from typing import Any

import pytest

from experiments.planning.grid import merged, spelled_out
from experiments.planning.plan import expand

DEFAULTS: dict[str, Any] = {"path": "a", "call": {"image": "x", "scale": 1.5}, "prepare": {"invert": {}}}


def cells(axes: Any) -> list[dict[str, Any]]:
    return [merged(DEFAULTS, params) for params in expand(spelled_out(axes, DEFAULTS))]


def test_a_grid_changes_one_argument_and_leaves_the_others() -> None:
    scales = [cell["call"] for cell in cells({"call": {"scale": [1, 2]}})]
    assert scales == [{"image": "x", "scale": 1}, {"image": "x", "scale": 2}]
    assert cells({"call.scale": [1, 2]}) == cells({"call": {"scale": [1, 2]}})
    assert cells([{"call": {"scale": 1}}, {"call": {"scale": 2}}]) == cells({"call": {"scale": [1, 2]}})
    assert DEFAULTS["call"] == {"image": "x", "scale": 1.5}


def test_axes_of_several_calls_are_crossed_and_new_arguments_are_added() -> None:
    made = cells({"call": {"scale": [1, 2]}, "prepare": {"invert": {"skip": [0.1, 0.2]}}, "path": "b"})
    assert [(cell["call"]["scale"], cell["prepare"]["invert"]["skip"], cell["path"]) for cell in made] == [
        (1, 0.1, "b"), (1, 0.2, "b"), (2, 0.1, "b"), (2, 0.2, "b"),
    ]  # fmt: skip


def test_a_mapping_is_a_value_where_the_method_has_none() -> None:
    tau = {"default_": 0.2, "dog": 0.6}
    assert expand(spelled_out({"tau": [tau, 0.1]}, {"tau": None})) == [{"tau": tau}, {"tau": 0.1}]
    assert expand(spelled_out({"tau": tau}, {"tau": None})) == [{"tau": tau}]
    assert expand(spelled_out(None, DEFAULTS)) == [{}]


def test_a_path_through_a_value_is_an_error() -> None:
    with pytest.raises(ValueError, match="path.name: path has no parameters of its own"):
        merged(DEFAULTS, {"path.name": 1})
