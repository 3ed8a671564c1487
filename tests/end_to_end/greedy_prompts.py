"""Twenty prompts of different kinds, lengths and languages."""

from __future__ import annotations

CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"

PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):\n",
    CHAT.format("Why is the sky blue?"),
    "Once upon a time, in a village by the sea,",
    "1, 2, 3, 5, 8,",
    "La Révolution française commence en",
    "Die häufigsten Gründe für Stau auf der Autobahn sind",
    "床前明月光，",
    '{"name": "Ada Lovelace", "born": 1815, "known_for": [',
    "SELECT customers.name, SUM(orders.total) FROM",
    "Dear Sir or Madam,\n\nI am writing to complain about",
    "Q: What is 17 times 23?\nA:",
    "The three laws of thermodynamics state that",
    "# Shopping list\n\n- eggs\n- flour\n-",
    "To be, or not to be, that is the question:",
    "#include <stdio.h>\n\nint main(void) {\n",
    CHAT.format("Write a haiku about winter."),
    CHAT.format("List the planets of the solar system, and one fact about each."),
    "Translate English to Spanish.\nhouse: casa\ndog: perro\nbook: libro\nwater:",
    "The committee met on Tuesday to discuss the budget for the coming year. After two hours of debate, in "  # noqa: ISC004
    "which every member spoke at least once and several spoke far longer than the rules allow, the chair "
    "called for a vote. The result surprised everyone who had followed the discussion: the motion, which "
    "almost nobody had defended in public, passed by a wide margin. Asked about it afterwards, the chair said",  # noqa: E501
)
