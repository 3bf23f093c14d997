"""Tables as Markdown, LaTeX, and for a terminal; whatever stands in a cell is text in each of them."""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Sequence

from hiso_pl.report.tables import Table

LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\texttt{\char34}",
    "'": "'{}",
    "`": "{}`{}",
    "-": "-{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\N{MULTIPLICATION SIGN}": r"\ensuremath{\times}",
    "\N{MINUS SIGN}": r"\ensuremath{-}",
    "\N{EN DASH}": r"\textendash{}",
    "\N{EM DASH}": r"\textemdash{}",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
    "\N{RIGHTWARDS ARROW}": r"\ensuremath{\to}",
    "\N{LESS-THAN OR EQUAL TO}": r"\ensuremath{\leq}",
    "\N{GREATER-THAN OR EQUAL TO}": r"\ensuremath{\geq}",
    "\N{MICRO SIGN}": r"\ensuremath{\mu}",
}
GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa mu nu xi pi rho sigma tau upsilon phi chi psi omega"
MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|~$])")


def markdown(table: Table) -> str:
    """A table as GitHub and Pandoc read it."""
    lines = [table.head, [*["---"] * table.words, *["---:"] * (len(table.head) - table.words)]]
    escaped = [[cell if line is lines[1] else markdown_text(cell) for cell in line] for line in [*lines, *table.rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is; an underscore within a word needs nothing."""
    return re.sub(r"(?<=\w)\\_(?=\w)", "_", MARKDOWN.sub(r"\\\1", " ".join(text.split())))


def latex(table: Table, label: str) -> str:
    """A table of LaTeX, in need of ``booktabs``; its heads break into lines."""
    columns = "l" * table.words + "r" * (len(table.head) - table.words)
    lines = [[_stacked(head) for head in table.head], *([latex_text(cell) for cell in row] for row in table.rows)]
    head, *rows = (" & ".join(cells) + r" \\" for cells in lines)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\small",
            rf"\caption{{{latex_text(table.caption)}}}",
            rf"\label{{tab:{label}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            head,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def latex_text(text: str) -> str:
    """Text that LaTeX prints as it is, by any engine; of a letter that not every font has, the code point."""
    text = re.sub(r"(?<![\w.])-(?=\d)", "\N{MINUS SIGN}", text)
    return "".join(map(_latex_character, " ".join(unicodedata.normalize("NFC", text).split())))


def _latex_character(character: str) -> str:
    if character in LATEX:
        return LATEX[character]
    if character.isascii():
        return character if character.isprintable() else "?"
    name = unicodedata.name(character, "")
    greek = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)", name)
    if greek and greek[2].lower() in GREEK.split():
        word = greek[2].lower()
        if greek[1] == "SMALL":
            return rf"\ensuremath{{\{word}}}"
        if word in ("gamma", "delta", "theta", "xi", "pi", "sigma", "upsilon", "phi", "psi", "omega"):
            return rf"\ensuremath{{\{word.capitalize()}}}"
    if "\N{LATIN CAPITAL LETTER A WITH GRAVE}" <= character <= "\N{LATIN SMALL LETTER Z WITH CARON}":
        plain = unicodedata.normalize("NFD", character)
        if len(plain) == 2 and plain[0].isascii() and plain[1] in ACCENTS:
            return f"{ACCENTS[plain[1]]}{{{plain[0]}}}"
        if character in LETTERS:
            return LETTERS[character]
    return rf"\texttt{{U+{ord(character):04X}}}"


ACCENTS = {"\u0300": r"\`", "\u0301": r"\'", "\u0302": r"\^", "\u0303": r"\~", "\u0308": r"\"", "\u030a": r"\r"}
ACCENTS |= {"\u0304": r"\=", "\u0306": r"\u", "\u0307": r"\.", "\u030b": r"\H", "\u030c": r"\v", "\u0327": r"\c"}
LETTERS = {"\u00df": r"\ss{}", "\u00e6": r"\ae{}", "\u00c6": r"\AE{}", "\u00f8": r"\o{}", "\u00d8": r"\O{}"}
LETTERS |= {"\u0153": r"\oe{}", "\u0152": r"\OE{}", "\u0142": r"\l{}", "\u0141": r"\L{}"}


def _stacked(head: str) -> str:
    """A head in two lines where it has several words."""
    words = head.split()
    if len(words) < 3:
        return latex_text(head)
    at = len(words) - 2 if words[-2] in ("to", "of") else len(words) // 2
    upper, lower = " ".join(words[:at]), " ".join(words[at:])
    return rf"\shortstack{{{latex_text(upper)}\\{latex_text(lower)}}}"


def terminal(found: Sequence[Table], width: int) -> str:
    """Tables as a terminal of that width shows them."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(file=io.StringIO(), width=width, color_system=None)
    said = ""
    for table in found:
        if table.caption != said:
            console.print(Text(table.caption))
        said = table.caption
        shown = RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for i, head in enumerate(table.head):
            words, longest = i < table.words, max(len(row[i]) for row in table.rows)
            least = min(longest, width // (4 * table.words)) if words else 7
            least = max(least, *(len(word) for word in head.split()))
            shown.add_column(
                Text(head), justify="left" if words else "right", overflow="fold", min_width=min(least, 16)
            )
        for row in table.rows:
            shown.add_row(*map(Text, row))
        console.print(shown)
    return str(console.file.getvalue())  # type: ignore[attr-defined]
