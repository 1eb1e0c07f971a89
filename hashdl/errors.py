"""What an exception says, for people."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """Of its text; its type's name where it has none.

    Examples:
        >>> first_line(ValueError("got 3\\nand much more")), first_line(EOFError())
        ('got 3', 'EOFError')
    """
    return str(error).partition("\n")[0] or type(error).__name__
