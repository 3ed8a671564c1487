"""How well does the model predict a text? Lower is better; nonsense scores high.

python examples/perplexity.py [FILE]
"""

import sys
from pathlib import Path

from trimtab import LLM

TEXTS = {
    "a sentence": "The boat came slowly into the harbour, and the people on the pier waved their hats.",
    "its words shuffled": "Pier slowly the hats waved harbour came people boat the into on their the and.",
}


def main() -> None:
    texts = {path: Path(path).read_text(encoding="utf-8") for path in sys.argv[1:]} or TEXTS
    with LLM("smollm2") as llm:
        for name, text in texts.items():
            print(f"{name}: {llm.perplexity(text):.1f}")


if __name__ == "__main__":
    main()
