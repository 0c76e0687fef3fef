"""A strict reader of JSON: values become dataclasses, and a value of another type is an error."""

import dataclasses
import functools
import json
import math
import reprlib
import types
import typing
from typing import Any

from cvvae_jax.errors import UserError

# How a message shows a value, which may be of any size and depth.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 60
_WORDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a text",
    type(None): "null",
    dict: "an object",
}


def parse(text: str | bytes, what: str) -> Any:
    """The value of a JSON text.

    Args:
        text: the text; bytes are UTF-8.
        what: the name of the text in messages.

    Raises:
        UserError: the text is no JSON.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise UserError(f"{what} is no JSON that can be read: it is nested too deeply.") from None
    except ValueError as error:
        raise UserError(f"{what} is no JSON: {error}.") from error


def build(kind: type, value: Any) -> Any:
    """A dataclass of type `kind` from a JSON object, whose lists become tuples where fields are
    tuples.

    Raises:
        UserError: the value is no object, a field is unknown, missing or of another type, or the
            dataclass refuses a value.
    """
    if not isinstance(value, dict):
        raise UserError(f"{kind.__name__} must be an object, not {_SHORT.repr(value)}.")
    hints = _hints(kind)
    if unknown := sorted(value.keys() - hints.keys()):
        raise UserError(f"{kind.__name__} has no setting {_SHORT.repr(', '.join(unknown))[1:-1]}.")
    if missing := sorted(_required(kind) - value.keys()):
        raise UserError(f"{kind.__name__} lacks its setting {', '.join(missing)}.")
    return kind(**{name: typed(hints[name], part, name) for name, part in value.items()})


def typed(hint: Any, value: Any, name: str) -> Any:
    """A JSON value as the type `hint`: a dataclass, tuple, dict, list, union or literal, or one of
    bool, int, float and str. An integer also counts as a float, and a list as a tuple.

    Raises:
        UserError: the value, called `name` in the message, has another type or is NaN.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return build(hint, value)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _one_of(arguments, hint, value, name)
    if origin is typing.Literal:
        if any(type(value) is type(choice) and value == choice for choice in arguments):
            return value
    elif origin in (tuple, list):
        if isinstance(value, list | tuple):
            return _items(origin, arguments, hint, value, name)
    elif origin is dict:
        if isinstance(value, dict):
            return {key: typed(arguments[1], part, name) for key, part in value.items()}
    elif hint is float:
        if type(value) in (int, float) and _is_number(value):
            return float(value)
    elif type(value) is hint:
        return value
    raise _refused(hint, value, name)


def _one_of(choices: tuple[Any, ...], hint: Any, value: Any, name: str) -> Any:
    for choice in choices:
        try:
            return typed(choice, value, name)
        except UserError:
            continue
    raise _refused(hint, value, name)


def _items(kind: type, arguments: tuple[Any, ...], hint: Any, values: Any, name: str) -> Any:
    if kind is list or arguments[1:] == (...,):
        return kind(typed(arguments[0], value, name) for value in values)
    if len(values) != len(arguments):
        raise _refused(hint, values, name)
    return tuple(typed(*both, name) for both in zip(arguments, values, strict=True))


def _is_number(value: int | float) -> bool:
    """Whether a value is neither NaN nor an integer beyond the range of floats."""
    try:
        return not math.isnan(value)
    except OverflowError:
        return False


def _refused(hint: Any, value: Any, name: str) -> UserError:
    return UserError(f"{name} must be {_in_words(hint)}, not {_SHORT.repr(value)}.")


def _in_words(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_in_words, arguments))
    if origin is typing.Literal:
        return " or ".join(map(json.dumps, arguments))
    if origin is list or arguments[1:] == (...,):
        return f"a list of {_WORDS.get(arguments[0], 'an object').split()[-1]}s"
    if origin is tuple:
        return f"a list of {', '.join(map(_in_words, arguments))}"
    return _WORDS.get(origin or hint, "an object")


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


@functools.cache
def _required(kind: type) -> set[str]:
    return {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
