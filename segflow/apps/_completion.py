"""Tab completion: the shell code to install, and the answers at every Tab. Imports nothing heavy.

``eval "$(segflow -sc install=bash)"`` defines a shell function. At a Tab it calls ``segflow -sc query=bash`` with the
present line in ``COMP_LINE``, cut at ``COMP_POINT``, and gets one candidate per line. A candidate that ends in a space
is a complete word; others continue.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from segflow.apps._candidates import Candidate, candidates
from segflow.core.errors import SegflowError

SCRIPTS = {
    "bash": """\
_segflow_complete() {
    local word
    COMPREPLY=()
    while IFS= read -r word; do
        COMPREPLY+=("$word")
    done < <(COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
        "$1" -sc query=bash 2>/dev/null)
}
complete -o nospace -F _segflow_complete segflow
""",
    "zsh": """\
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
_segflow() {
    local line="${(j: :)words[1,CURRENT-1]} $PREFIX"
    local -a found whole open
    found=(${(f)"$(COMP_LINE=$line COMP_POINT=${#line} ${words[1]} -sc query=zsh 2>/dev/null)"})
    open=(${found:#* })
    whole=(${${(M)found:#* }% })
    compadd -a whole
    compadd -S '' -a open
}
compdef _segflow segflow
""",
    "fish": """\
function __segflow_complete
    set -lx COMP_LINE (commandline --cut-at-cursor --current-process)
    set -lx COMP_POINT (string length -- "$COMP_LINE")
    segflow -sc query=fish 2>/dev/null
end
complete --command segflow --no-files --arguments '(__segflow_complete)'
""",
}
UNINSTALL = {
    "bash": "complete -r segflow; unset -f _segflow_complete\n",
    "zsh": "compdef -d segflow; unfunction _segflow\n",
    "fish": "complete --command segflow --erase; functions --erase __segflow_complete\n",
}
WORD_BREAKS = " \t\n\"'><=;|&(:"
"""Characters at which bash begins the word to replace, unless COMP_WORDBREAKS has others."""

_SPECIAL = re.compile(r"([^\w./@%+:,=~-])")


def answer(arguments: list[str], environment: Mapping[str, str] = os.environ) -> str:
    """The output of ``segflow -sc ARGUMENTS``.

    Args:
        arguments: ``install=SHELL``, ``uninstall=SHELL`` or ``query=SHELL``.
        environment: Environment variables with the present line.

    Raises:
        SegflowError: Something else is asked for.
    """
    asked, _, shell = (arguments or [""])[0].partition("=")
    if len(arguments) != 1 or asked not in ("install", "uninstall", "query") or shell not in SCRIPTS:
        raise SegflowError(
            "cannot complete",
            found=" ".join(arguments) or None,
            expected="install=SHELL, uninstall=SHELL or query=SHELL; SHELL is bash, zsh or fish",
            fix='In bash: eval "$(segflow -sc install=bash)"; in fish: segflow -sc install=fish | source',
        )
    if asked != "query":
        return SCRIPTS[shell] if asked == "install" else UNINSTALL[shell]
    line = environment.get("COMP_LINE", "")
    point = environment.get("COMP_POINT", "")
    line = line[: int(point)] if point.isdigit() else line
    words, raw = split_line(line)
    try:
        found = candidates(words, unquoted(raw))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # a file that cannot be read offers nothing
        found = []
    render: Callable[[Iterable[Candidate]], list[str]] = {
        "bash": lambda each: for_bash(each, raw, environment.get("COMP_WORDBREAKS", WORD_BREAKS)),
        "zsh": lambda each: [f"{c.text}{' ' if c.whole else ''}" for c in each],
        "fish": lambda each: [f"{c.text}\t{c.meaning}" if c.meaning else c.text for c in each],
    }[shell]
    return "".join(f"{text}\n" for text in render(found))


def split_line(line: str) -> tuple[list[str], str]:
    """The words of a line after the command's name, and the last one as typed (empty after a space)."""
    parts = [""]
    for sign, quote, escaped, _ in _scanned(line):
        if escaped or quote or not sign.isspace():
            parts[-1] += sign
        elif parts[-1]:
            parts.append("")
    return [unquoted(part) for part in parts[1:-1]], parts[-1] if len(parts) > 1 else ""


def unquoted(raw: str) -> str:
    """The word as the shell sees it, without quotes; the last quote may be open."""
    text = ""
    for sign, quote, escaped, is_mark in _scanned(raw):
        if escaped and quote and sign not in '"\\$`':
            text += "\\"
        text += "" if is_mark else sign
    return text


def _scanned(raw: str) -> Iterator[tuple[str, str, bool, bool]]:
    """Each character, the quote that is open before it, whether it is escaped, and whether it is a quote or escapes."""
    quote, escaped = "", False
    for sign in raw:
        escapes = not escaped and sign == "\\" and quote != "'"
        is_quote = not escaped and not escapes and (sign == quote or (not quote and sign in "'\""))
        yield sign, quote, escaped, escapes or is_quote
        escaped = escapes
        if is_quote:
            quote = "" if quote else sign


def for_bash(found: Iterable[Candidate], raw: str, breaks: str) -> list[str]:
    """Candidates as bash inserts them: without the part before the word's last break, and quoted like it.

    Args:
        found: Candidates for the whole word.
        raw: The word as it was typed.
        breaks: Characters at which bash breaks words.
    """
    start, open_quote = 0, ""
    for position, (sign, quote, escaped, is_mark) in enumerate(_scanned(raw)):
        is_quote = is_mark and sign != "\\"
        if not quote and not escaped and (is_quote or (not is_mark and sign in breaks)):
            start = position + 1
        if is_quote:
            open_quote = "" if quote else sign
    head = unquoted(raw[:start])
    texts = [(c.text[len(head) :], c.whole) for c in found if c.text.startswith(head)]
    end = {True: f"{open_quote} ", False: ""}
    return [(text if open_quote else _SPECIAL.sub(r"\\\1", text)) + end[whole] for text, whole in texts]
