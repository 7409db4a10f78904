"""Options of a verb made from the fields of a settings dataclass.

A field's default and the text on it in the class's docstring stand once, in the library; here they
become an option and its help.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from fastcam.cli.options import typer

#: What a verb gets in place of the options: the values by the fields' names.
Settings = dict[str, Any]


def options(
    parameter: str,
    config: type,
    *,
    only: Collection[str] = (),
    without: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
    found: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb an option for each field of a dataclass.

    A field that the verb has a parameter for is left to the verb, and so are fields without a
    default.

    Args:
        parameter: the verb's keyword-only parameter that the options stand in for; it gets a dict
            of the values by the fields' names.
        config: the dataclass; a field's ``metadata["short"]`` is the option's second name.
        only: fields to take; empty takes all.
        without: fields to leave out.
        defaults: in place of the dataclass's own, by field.
        found: what a default depends on, by field: shown in its place, and None is given.
    """

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(verb, eval_str=True)
        fields = [
            f
            for f in dataclasses.fields(config)
            if (not only or f.name in only)
            and f.name not in {*without, *signature.parameters}
            and f.default is not dataclasses.MISSING
        ]
        made = _parameters(config, fields, defaults or {}, found or {})

        @functools.wraps(verb)
        def wrapper(**values: Any) -> None:
            verb(**{parameter: {f.name: values.pop(f.name) for f in fields}, **values})

        parameters: list[inspect.Parameter] = []
        for known in signature.parameters.values():
            parameters.extend(made if known.name == parameter else [known])
        wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        return wrapper

    return decorate


def _parameters(
    config: type,
    fields: list[dataclasses.Field[Any]],
    defaults: Mapping[str, Any],
    found: Mapping[str, str],
) -> list[inspect.Parameter]:
    kinds, helps = get_type_hints(config), field_help(config)
    made = []
    for f in fields:
        kind, shown = kinds[f.name], {}
        if get_origin(kind) is Literal:  # the config itself refuses another value
            kind, shown = str, {"metavar": "|".join(get_args(kind))}
        default = defaults.get(f.name, f.default)
        if f.name in found:
            kind, default, shown = kind | None, None, {**shown, "show_default": found[f.name]}
        names = (
            [f"--{f.name.replace('_', '-')}", f.metadata["short"]] if "short" in f.metadata else []
        )
        option = typer.Option(*names, help=helps.get(f.name), **shown)
        made.append(
            inspect.Parameter(
                f.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=Annotated[kind, option],
            )
        )
    return made


def field_help(config: type) -> dict[str, str]:
    """What the section "Attributes" of a class's docstring says, by field, as plain text."""
    _, _, section = (inspect.getdoc(config) or "").partition("Attributes:\n")
    section = re.split(r"\n\s*\n(?=\S)", section)[0]
    found = re.findall(r"^    (\w[\w, ]*): (.*(?:\n {5,}.*)*)", section, flags=re.MULTILINE)
    return {name: _plain(text) for names, text in found for name in names.split(", ")}


def _plain(text: str) -> str:
    """Without the markup of docstrings; as a sentence, unless it begins with a value."""
    bare = re.sub(r":\w+:`([^`]+)`", r"\1", " ".join(text.split()))
    bare = re.sub(r"``\"?([^`\"]*)\"?``", r"\1", bare)
    return bare if text.startswith("`") else bare[:1].upper() + bare[1:]
