"""Run many prompts through one engine and print the results in order.

    python examples/many_prompts.py [FILE]      # a prompt a line; a few of its own without a file

Given the whole list at once, the engine decodes them together and reads the beginning they share only once.
"""

import sys
from pathlib import Path

from trimtab import LLM, SamplingParams

RULE = "Complete the sentence with a few words. "
OWN = ["The sun rises in the", "Cats like to", "Bread is made from", "In winter it is"]


def main() -> None:
    prompts = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines() if len(sys.argv) > 1 else OWN
    params = SamplingParams(temperature=0, max_tokens=12, stop=(".", "\n"))
    with LLM("smollm2") as llm:
        for prompt, completion in zip(
            prompts, llm.generate([RULE + p for p in prompts], params), strict=True
        ):
            print(f"{prompt}{completion.text}")


if __name__ == "__main__":
    main()
