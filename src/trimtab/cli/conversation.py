"""A conversation that stays inside the context: its turns, its prompt, and how it is saved.

Knows messages and the tokenizer; neither the terminal nor the engine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.errors import TooLong, UsageError

if TYPE_CHECKING:
    from trimtab.models.tokenizer import Tokenizer

# Room that a prompt leaves for the answer, as a share of the context: older turns go before it gets tighter.
_ANSWER_SHARE = 0.25


@dataclass(slots=True)
class Conversation:
    """Turns of a chat, oldest first; the system text stands apart and is never dropped."""

    tokenizer: Tokenizer
    context: int
    system: str = ""
    turns: list[dict[str, str]] = field(default_factory=list)

    def messages(self) -> list[dict[str, str]]:
        """What the chat template is given."""
        return ([{"role": "system", "content": self.system}] if self.system else []) + self.turns

    def say(self, text: str) -> None:
        self.turns.append({"role": "user", "content": text})

    def answer(self, text: str) -> None:
        self.turns.append({"role": "assistant", "content": text})

    def unsay(self) -> str | None:
        """Take back the last question and its answer; the question, if there was one."""
        while self.turns:
            turn = self.turns.pop()
            if turn["role"] == "user":
                return turn["content"]
        return None

    def prompt(self, answer_tokens: int | None) -> tuple[list[int], int]:
        """The prompt's tokens, and how many of the oldest turns had to be dropped for good to fit.

        Parameters
        ----------
        answer_tokens : room the answer needs; None for a quarter of the context

        Raises
        ------
        TooLong : the last turn alone does not fit
        """
        room = int(self.context * _ANSWER_SHARE) if answer_tokens is None else answer_tokens
        dropped = 0
        while True:
            tokens = self.tokenizer.encode_chat(self.messages())
            if len(tokens) + room <= self.context:
                return tokens, dropped
            if len(self.turns) <= 1:
                if len(tokens) < self.context:
                    return tokens, dropped
                message = f"the prompt has {len(tokens)} tokens and the context holds {self.context}"
                raise TooLong(message, "shorten it, or start with a larger --context", "prompt")
            # A question goes together with its answer: templates want the roles to alternate.
            gone = 2 if len(self.turns) > 2 and self.turns[1]["role"] == "assistant" else 1
            del self.turns[:gone]
            dropped += gone

    def save(self, path: Path) -> None:
        """Write the conversation: messages as JSON to a `.json` file, else text for people."""
        if path.suffix == ".json":
            text = json.dumps(self.messages(), ensure_ascii=False, indent=1) + "\n"
        else:
            text = "\n\n".join(f"{turn['role']}:\n{turn['content']}" for turn in self.messages()) + "\n"
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error
