"""A conversation with its history, each answer printed as it is made.

python examples/streaming_chat.py           # its own two questions
python examples/streaming_chat.py -i        # yours, until an empty line
"""

import sys
from collections.abc import Iterator

from trimtab import LLM, SamplingParams

QUESTIONS = ["Name a large animal.", "And a small one?"]


def questions() -> Iterator[str]:
    if "-i" not in sys.argv:
        yield from QUESTIONS
        return
    while line := input("> ").strip():
        yield line


def main() -> None:
    history: list[dict[str, str]] = [{"role": "system", "content": "Answer in one short sentence."}]
    with LLM("smollm2") as llm:
        for question in questions():
            history.append({"role": "user", "content": question})
            print(f"user: {question}\nmodel: ", end="")
            answer = ""
            # The earlier turns are still in the page pool, so only the new words are read.
            for delta in llm.stream_chat(history, SamplingParams(temperature=0.7, seed=7, max_tokens=40)):
                answer += delta.text
                print(delta.text, end="", flush=True)
            print()
            history.append({"role": "assistant", "content": answer})


if __name__ == "__main__":
    main()
