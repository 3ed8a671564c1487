"""Find the smallest memory budget that is accepted, then work inside it.

    python examples/memory_budget.py

The engine refuses a budget it could not keep, so asking is cheap: nothing is loaded for a refused one.
"""

from trimtab import LLM, SamplingParams
from trimtab.errors import DoesNotFit


def main() -> None:
    budget_mb = 100
    while True:
        try:
            llm = LLM("smollm2", memory=f"{budget_mb}MB")
            break
        except DoesNotFit as refusal:
            print(f"{budget_mb} MB is too little: {refusal.message}")
            budget_mb += 50
    with llm:
        print(f"{budget_mb} MB will do:")
        for completion in llm.generate("A small house", SamplingParams(n=4, seed=1, max_tokens=10)):
            print(f"  A small house{completion.text!r}")


if __name__ == "__main__":
    main()
