"""Errors that users cause and can mend, and text of unknown origin made safe to show."""

import re


class UserError(ValueError):
    """A file, a value or a state of the machine that stops a command; its message is a sentence for
    users, which names what was wrong and what is accepted."""


class ConfigError(UserError):
    """A setting that cannot be used; its message is a sentence that names it."""


# Control characters, which a terminal may obey; characters that end a line or change the direction
# of text; and bytes that are no UTF-8, as Python has them in names.
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """A text in one line: control characters, line feeds among them, characters that change the
    direction of text, and bytes that are no UTF-8 become escapes such as `\\x1b`."""
    return _UNSEEN.sub(lambda found: _escape(found[0]), text)


def visible_lines(text: str) -> str:
    """A text whose lines stay lines, and in which all else that `visible` replaces becomes
    escapes."""
    return "\n".join(map(visible, text.split("\n")))


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
