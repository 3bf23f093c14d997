"""What an error says, and which errors say all that there is to say."""

from __future__ import annotations


class RunError(RuntimeError):
    """A run cannot go on, for a reason that the message tells whole, in one line."""


def one_line(message: object, limit: int = 300) -> str:
    """A message without control characters and of bounded length; of an error without one, its class.

    Args:
        message: The message, or the error.
        limit: Characters that are kept.
    """
    text = " ".join(line.strip() for line in str(message).splitlines() if line.strip())
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)  # a file's own words steer no terminal
    if not text and isinstance(message, BaseException):
        text = type(message).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."
