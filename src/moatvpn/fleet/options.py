"""Command-line options made from the tables of fields, so that each field is described once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

import typer

from moatvpn.fleet.fields import Field

_Command = TypeVar("_Command", bound=Callable[..., None])


def field_options(
    fields: Sequence[Field], positional: str, *, change: bool = False
) -> Callable[[_Command], _Command]:
    """Give a command an option for each field, in the place of its parameter **given.

    positional is the name of the field that is an argument. change is for a command that
    changes a record: then every option may be left out, and none has a default.
    """

    def decorate(command: _Command) -> _Command:
        signature = inspect.signature(command, eval_str=True)
        own = [
            each
            for each in signature.parameters.values()
            if each.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        made = [_parameter(field, field.name == positional, change) for field in fields]
        # Typer calls commands by keyword and reads no more of them than this signature.
        command.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*own, *made]
        )
        return command

    return decorate


def _parameter(field: Field, positional: bool, change: bool) -> inspect.Parameter:
    info: Any
    default: Any = inspect.Parameter.empty
    if positional:
        info = typer.Argument(help=field.help, show_default=False)
    else:
        required = field.required and not change
        text = field.help if change or not field.default else f"{field.help} ({field.default})"
        option = f"--{field.name.replace('_', '-')}"
        info = typer.Option(option, help=text, metavar="TEXT", show_default=False)
        default = inspect.Parameter.empty if required else None
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[str if default is inspect.Parameter.empty else str | None, info],
    )


def given_texts(given: dict[str, str | None]) -> dict[str, str]:
    """Return the texts of the options that were given."""
    return {name: text for name, text in given.items() if text is not None}
