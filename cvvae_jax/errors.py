"""Errors that users cause and can mend, and text of unknown origin made safe to show."""

import re


class UserError(ValueError):
    """A file, a value or a state of the machine that stops a command; its message is a sentence for
    users, which names what was wrong and what is accepted."""


class ConfigError(UserError):
    """A setting that cannot be used; its message is a sentence that names it."""


# Control characters, which a terminal may obey; bytes that are no UTF-8, as Python has them in
# names; and what changes the direction of text.
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """A text of one line, whose other characters stand as escapes of Python's."""
    return _UNSEEN.sub(lambda found: _escape(found[0]), text)


def visible_lines(text: str) -> str:
    """The same for a text of several lines, which stay."""
    return "\n".join(map(visible, text.split("\n")))


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
