"""Options that are made from a settings dataclass."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, Literal

import pytest

from fastcam import analysis
from fastcam.cli import attention as attention_verbs
from fastcam.cli import data as data_verbs
from fastcam.cli import evaluation as evaluation_verbs
from fastcam.cli import training
from fastcam.cli.settings import Settings, field_help, options
from fastcam.demos.settings import AttentionDemoConfig, DemoConfig
from fastcam.evaluation import compare
from fastcam.evaluation.explain import explain_files
from fastcam.faces import generate
from fastcam.training import GuidanceConfig, TrainConfig


@dataclasses.dataclass
class Cake:
    """A cake.

    Attributes:
        name: what it is called.
        eggs, spoons: how many, of
            sugar in :class:`kitchen.Spoon`.
        form: ``"round"`` or ``"square"``, see ``eggs``.

    Raises:
        ValueError: burnt.
    """

    name: str
    eggs: int = 3
    spoons: float | None = None
    form: Literal["round", "square"] = dataclasses.field(default="round", metadata={"short": "-f"})


def test_the_docstring_is_the_help() -> None:
    sugar = "How many, of sugar in kitchen.Spoon."
    assert field_help(Cake) == {
        "name": "What it is called.",
        "eggs": sugar,
        "spoons": sugar,
        "form": "round or square, see eggs.",
    }


@pytest.mark.parametrize("config", [TrainConfig, GuidanceConfig, DemoConfig, AttentionDemoConfig])
def test_every_field_has_a_text(config: type) -> None:
    assert list(field_help(config)) and set(field_help(config)) == {
        f.name for f in dataclasses.fields(config)
    }


def test_fields_become_parameters_and_a_dict_again() -> None:
    seen: list[Any] = []

    @options("cake", Cake, without=("spoons",), defaults={"eggs": 2})
    def bake(oven: str, hot: bool = True, *, cake: Settings) -> None:
        seen.append((oven, hot, cake))

    made = inspect.signature(bake).parameters
    assert list(made) == ["oven", "hot", "eggs", "form"]
    assert (made["eggs"].default, made["form"].default) == (2, "round")
    kind, option = made["form"].annotation.__args__[0], made["form"].annotation.__metadata__[0]
    assert (kind, option.metavar) == (str, "round|square")
    assert {"-f"} == set(option.param_decls)
    bake(oven="gas", hot=False, eggs=1, form="square")
    assert seen == [("gas", False, {"eggs": 1, "form": "square"})]


def test_a_parameter_of_the_verb_goes_before_the_field() -> None:
    @options("cake", Cake)
    def bake(eggs: str = "none", *, cake: Settings) -> None:
        assert (eggs, cake) == ("six", {"spoons": 1.0, "form": "round"})

    assert list(inspect.signature(bake).parameters) == ["eggs", "spoons", "form"]
    bake(eggs="six", spoons=1.0, form="round")


def test_training_offers_every_setting() -> None:
    offered = {
        *inspect.signature(training.train).parameters,
        *inspect.signature(training.finetune).parameters,
    }
    settings = {f.name for c in (TrainConfig, GuidanceConfig) for f in dataclasses.fields(c)}
    assert settings - offered == {
        "start", "architecture", "guidance", "save_minutes", "targets", "grid",
    }  # fmt: skip


def _defaults(function: Any) -> dict[str, Any]:
    found = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in found if p.default is not p.empty}


@pytest.mark.parametrize(
    ("verb", "function"),
    [
        (evaluation_verbs.evaluate, compare),
        (evaluation_verbs.explain, explain_files),
        (data_verbs.synth, generate),
        (attention_verbs.attributes, analysis.attributes),
        (attention_verbs.masks, analysis.top_masks),
        (attention_verbs.correlation, analysis.correlations),
        (attention_verbs.robustness, analysis.robustness),
        (attention_verbs.ablation, analysis.ablation),
    ],
)
def test_a_verb_and_its_function_have_the_same_defaults(verb: Any, function: Any) -> None:
    offered, own = _defaults(verb), _defaults(function)
    shared = offered.keys() & own.keys() - {"out", "workers", "progress"}
    for name in shared & {"sigmas", "seeds"}:  # text on the command line
        offered[name] = tuple(type(own[name][0])(x) for x in offered[name].split(","))
    assert shared
    for name in shared - {"device"}:
        if offered[name] is not None and own[name] is not None:
            assert offered[name] == own[name], name
