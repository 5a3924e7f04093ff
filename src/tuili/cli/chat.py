"""`tuili chat`: question after question; works at a terminal and with piped input."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from tuili.cli.output import is_terminal, print_json, progress
from tuili.errors import TuiliError

if TYPE_CHECKING:
    from tuili.reason.dialogue import Dialogue

PROMPT = "tuili> "
HELP = """Ask a question; a later one may refer to it ("and its default?").
fact: subject | relation | object   tell a fact for this conversation
/facts      the facts told          /forget   forget them and everything said
/kb NAME    use one base            /kb       let each question find its base
/json       JSON on or off          /quit     end"""


@click.command(name="chat")
@click.option("--kb", help="The knowledge base; without it the one that fits each question.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each line of input.")
def command(kb: str | None, as_json: bool) -> None:
    """Ask question after question; later ones may refer to earlier ones.

    \b
      tuili chat --kb python
      printf 'default of indent in json.dumps\\nand for json.dump?\\n' | tuili chat
    """
    from tuili.reason.dialogue import Dialogue
    from tuili.reasoner import Reasoner

    chat = Chat(Dialogue(Reasoner(kb)), as_json=as_json)
    if kb is not None:
        with chat.progress():
            chat.dialogue.reasoner.base(kb)
    if is_terminal(sys.stdin) and is_terminal(sys.stdout):
        _enable_history()
        click.echo("Ask a question; /help says what else there is.")
    while (line := _read_line()) is not None and chat.take(line):
        pass


class Chat:
    """Carries out one line after the other."""

    def __init__(self, dialogue: Dialogue, *, as_json: bool) -> None:
        self.dialogue = dialogue
        self.as_json = as_json

    @contextlib.contextmanager
    def progress(self) -> Iterator[None]:
        """Show what is built, brought or loaded in the block; the bar is gone before the next prompt."""
        with progress() as self.dialogue.reasoner.on_progress:
            yield

    def take(self, line: str) -> bool:
        """Carry out a line; an error is told and the conversation goes on. False ends it."""
        line = line.strip("\r\n ")
        if not line:
            return True
        try:
            return self._command(line) if line.startswith("/") else self._say(line)
        except TuiliError as error:
            self._tell({"error": {"type": type(error).__name__, "message": str(error)}}, f"error: {error}")
            return True

    def _say(self, line: str) -> bool:
        from tuili.cli.ask import show
        from tuili.reason.followup import is_fact

        if is_fact(line):
            with self.progress():
                edge = self.dialogue.tell(line)
            fact = {"subject": edge.subject, "relation": edge.relation, "object": edge.object}
            self._tell({"fact": fact}, f"noted: {edge.subject} | {edge.relation} | {edge.object}")
            return True
        with self.progress():
            answer = self.dialogue.ask(line)
        show(answer, as_json=self.as_json, explain=False)
        return True

    def _command(self, line: str) -> bool:
        name, _, rest = line.partition(" ")
        if name in ("/quit", "/exit", "/q"):
            return False
        if name == "/json":
            self.as_json = not self.as_json
        elif name == "/kb":
            self._use(rest.strip())
        elif name == "/forget":
            self.dialogue.forget()
            self._tell({"forgotten": True}, "forgotten")
        elif name == "/facts":
            facts = [[edge.subject, edge.relation, edge.object] for edge in self.dialogue.facts]
            self._tell({"facts": facts}, "\n".join(" | ".join(fact) for fact in facts) or "no facts were told")
        elif name == "/help":
            self._tell({"help": HELP}, HELP)
        else:
            self._tell(
                {"error": {"type": "UsageError", "message": f"{name} is no command"}},
                f"{name} is no command; /help lists them",
            )
        return True

    def _use(self, name: str) -> None:
        if name:
            with self.progress():
                self.dialogue.reasoner.base(name)
        self.dialogue.kb = name or None
        self._tell({"kb": name or None}, f"using {name}" if name else "each question finds its base")

    def _tell(self, value: dict[str, object], text: str) -> None:
        if self.as_json:
            print_json(value)
        else:
            click.echo(text)


def _read_line() -> str | None:
    """Return the next line, or None at the end of the input; Ctrl-C ends the conversation too."""
    if not (is_terminal(sys.stdin) and is_terminal(sys.stdout)):
        line = sys.stdin.readline() if sys.stdin is not None else ""
        return line or None
    try:
        return input(PROMPT)
    except EOFError:
        click.echo()
        return None


def _enable_history() -> None:
    """Let the arrow keys bring earlier lines back, where readline is there."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
