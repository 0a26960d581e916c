"""A conversation in a terminal or from a pipe: questions in, answers on stdout, what they were taken for on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from trafficllm.core.errors import TrafficLLMError, UsageError

if TYPE_CHECKING:
    from trafficllm.lifecycle.chat.conversation import Conversation, Reply
    from trafficllm.lifecycle.chat.sources import Captures

_GREETING = "Ask about {files}. Ctrl-C stops an answer, Ctrl-D ends. Try: what is it? who is the most suspicious host? explain it"
_LEAVE = frozenset({"exit", "quit", "bye", ":q"})


def converse(source: Captures, *, quiet: bool) -> int:
    """Answer questions until there are no more; the exit code: 0 for a person, that of the last failure for a pipe."""
    from trafficllm.lifecycle.chat.conversation import Conversation
    from trafficllm.surface.terminal.output import note, tell
    from trafficllm.surface.terminal.progress import Bar

    talk, person, code = Conversation(source), sys.stdin.isatty(), 0
    if person and not quiet:
        note(_GREETING.format(files=Path(source.paths[0]).name if len(source.paths) == 1 else f"{len(source.paths)} captures"))
    for question in _questions(talk) if person else _piped():
        try:
            with Bar(quiet=quiet) as source.progress:
                reply = talk.ask(question)
            _say(reply)
        except TrafficLLMError as error:
            code = error.exit_code
            tell(error, as_answer=error.input == "--question")
        except KeyboardInterrupt:
            if not person:
                raise
            note("stopped")
    return 0 if person else code


def _say(reply: Reply) -> None:
    """An answer on stdout, what the question was taken for on stderr; a report that has a name goes to its file."""
    from trafficllm.core.escape import for_person, for_terminal
    from trafficllm.core.files import atomic_write
    from trafficllm.surface.terminal.output import note

    if reply.taken_as:
        note(reply.taken_as)
    if reply.file:
        out = Path(reply.file)
        if out.exists():
            raise UsageError("usage.exists", "a file is there already", input=reply.file, hint="choose another name")
        atomic_write(out, reply.text + "\n")
        note(f"written to {out}")
        return
    print("\n".join(for_terminal(for_person(line)) for line in reply.text.splitlines()), flush=True)


def _piped() -> Iterator[str]:
    """Questions from a pipe, a line each; empty lines and comments are none."""
    for line in sys.stdin:
        if line.strip() and not line.startswith("#"):
            yield line.strip()


def _questions(talk: Conversation) -> Iterator[str]:
    """Questions that a person types, until Ctrl-D or "quit"; Ctrl-C drops the line."""
    prompt = _prompt(talk)
    while True:
        try:
            question = prompt().strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        if question.lower() in _LEAVE:
            return
        if question:
            yield question


def _prompt(talk: Conversation) -> Callable[[], str]:
    """How a line is asked for: with history and completion where prompt_toolkit is installed (extra `chat`), else as it comes."""
    try:
        from prompt_toolkit import PromptSession
    except ModuleNotFoundError:
        return lambda: input("> ")
    from trafficllm.surface.terminal.prompting import completer, history

    session: PromptSession[str] = PromptSession(history=history(), completer=completer(talk.names), complete_while_typing=False)
    return lambda: session.prompt("> ")
