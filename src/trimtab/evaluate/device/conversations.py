"""The fifty conversations that every device is asked to hold: written here, drawn from a seed.

Each has one subject and six to ten user turns, from an opening through follow-ups to an end, as people talk
to an assistant. In the forced mode everyone continues from the same written replies, so that prompts are
equal for every engine and quantisation. The content tests speed and memory; nobody's answers are judged.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

NUMBER = 50
SEED = 20_240_319

_SUBJECTS = (
    "baking bread at home", "growing tomatoes on a balcony", "learning to swim as an adult",
    "planning a week of meals", "repairing a flat bicycle tyre", "reading a star map",
    "writing a letter of complaint", "choosing a first musical instrument", "the water cycle",
    "keeping bees", "a budget for a small household", "packing for a mountain hike",
    "why the sky is blue", "setting up a home office", "teaching a child to read",
    "brewing good coffee", "the rules of chess", "painting a room", "making soap",
    "how vaccines work", "a visit to a museum", "sorting a photo collection",
    "starting a running habit", "composting kitchen waste", "the history of paper",
    "organising a birthday party", "learning the names of trees", "how a refrigerator works",
    "making a short film", "sharpening kitchen knives", "adopting a cat", "moving to a new city",
    "the phases of the moon", "building a bookshelf", "writing unit tests", "sleeping better",
    "making a web page", "how batteries store energy", "preparing for an interview",
    "drawing a portrait", "travelling by night train", "preserving fruit", "how bridges carry load",
    "saving electricity at home", "telling a good story", "the life of a river",
    "training a puppy", "understanding a pay slip", "folding paper figures", "learning a language",
)  # fmt: skip
_OPENINGS = (
    "I would like to know more about {}. Where should I begin?",
    "Can you explain {} to me in plain words?",
    "I have half an hour to think about {}. What matters most?",
    "A friend asked me about {} and I could not answer. Please help me.",
    "Please give me a short overview of {}.",
)
_FOLLOWS = (
    "What do beginners usually get wrong about that?",
    "Could you put the main points into a numbered list?",
    "I do not have much money. Does that change your advice?",
    "How long does it take before one sees a result?",
    "Explain the second point again, for somebody who has never heard of it.",
    "What would an expert add here?",
    "Is there something that could be dangerous, and how do I avoid it?",
    "Give me an example from everyday life.",
    "How was this done a hundred years ago?",
    "I tried that once and it did not work. What may have been the reason?",
    "What do I need to buy, and what can I borrow?",
    "Compare two different ways to go about it.",
    "How would you explain {} to a ten year old?",
    "Which of these steps can I leave out when I am in a hurry?",
    "Write down three questions that I should ask somebody who knows.",
    "How do I notice that I am doing it right?",
    "What changes in winter?",
    "Does it matter where I live?",
    "Can two people do this together, and how would they share the work?",
    "Tell me one surprising fact about {}.",
)  # fmt: skip
_ENDINGS = (
    "Thank you. Please sum up what we have said in two sentences.",
    "Good. Make me a plan for the next seven days.",
    "That helps. What should I read or try next?",
    "Please write a short note that I can send to a friend about this.",
)
_REPLIES = (
    "Begin with the smallest part that is useful alone, and do it until it is easy.",
    "There are three things to look at: what you have, what you want, and how much time there is.",
    "Most people try too much at once. One change a week is enough, and it lasts longer.",
    "First look around, then ask somebody nearby, and only then spend money.",
    "It depends on the season and on the place, but the order of the steps stays the same.",
    "Write down what you did and how it went. After a few times the pattern shows by itself.",
    "The short answer is yes. The long answer is that it takes patience and a little care.",
    "An expert would slow down here, check each part twice, and change one thing at a time.",
)


@dataclass(frozen=True, slots=True)
class Conversation:
    """User turns, and the replies that stand between them when everyone must continue alike."""

    number: int
    turns: tuple[str, ...]
    replies: tuple[str, ...]

    def messages(self, turn: int, answers: list[str] | None = None) -> list[dict[str, str]]:
        """The chat up to and with user turn `turn`; `answers` stand for the written replies if given."""
        said = self.replies if answers is None else answers
        chat: list[dict[str, str]] = []
        for index in range(turn):
            chat.append({"role": "user", "content": self.turns[index]})
            chat.append({"role": "assistant", "content": said[index]})
        return [*chat, {"role": "user", "content": self.turns[turn]}]


def conversations(seed: int = SEED) -> list[Conversation]:
    """All fifty, the same for the same seed on every machine."""
    found = []
    for number, subject in enumerate(_SUBJECTS):
        draw = random.Random(seed * 1000 + number)
        length = draw.randint(6, 10)
        turns = [draw.choice(_OPENINGS), *draw.sample(_FOLLOWS, length - 2), draw.choice(_ENDINGS)]
        replies = [" ".join(draw.sample(_REPLIES, draw.randint(1, 3))) for _ in turns]
        found.append(Conversation(number, tuple(turn.format(subject) for turn in turns), tuple(replies)))
    return found
