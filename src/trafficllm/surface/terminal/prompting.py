"""A line that a person types: its history in a private file, and completion of phrases, hosts and labels (extra `chat`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from trafficllm.core.escape import visible

PHRASES = (
    "what is it?",
    "who is the most suspicious host?",
    "how many packets are there?",
    "top talkers",
    "which TLS versions?",
    "explain it",
    "show its packets",
    "and the second one?",
    "write a report",
    "only to ",
    "after ",
    "hosts",
    "flows",
    "more",
    "clear filters",
)


def history(place: Path | None = None) -> History:
    """Lines of former sessions: a file that only its owner can read, none where it cannot be written."""
    import platformdirs

    file = place or Path(platformdirs.user_state_dir("trafficllm")) / "chat_history"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_NOFOLLOW, 0o600))
        return FileHistory(str(file))
    except OSError:
        return InMemoryHistory()


def completer(names: Callable[[], Iterable[str]]) -> Completer:
    """Completes the line to a phrase, or its last word to a host or label of the verdicts at hand; unprintable names are left out."""

    class _Names(Completer):
        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
            line = document.text_before_cursor.lstrip()
            for phrase in PHRASES:
                if phrase.lower().startswith(line.lower()):
                    yield Completion(phrase, start_position=-len(line))
            word = document.get_word_before_cursor(WORD=True)
            for name in names():
                if word and name.lower().startswith(word.lower()) and visible(name) == name:
                    yield Completion(name, start_position=-len(word))

    return _Names()
