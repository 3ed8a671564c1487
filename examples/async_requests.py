"""Requests that come and go in an async program: two finish, one is given up half way.

python examples/async_requests.py
"""

import asyncio
from contextlib import aclosing

from trimtab import AsyncLLM, SamplingParams


async def finish(llm: AsyncLLM, prompt: str) -> str:
    completion = (await llm.generate(prompt, SamplingParams(temperature=0, max_tokens=16)))[0]
    return f"{prompt}{completion.text!r}"


async def give_up(llm: AsyncLLM, prompt: str) -> str:
    tokens = 0
    # `aclosing` ends the request where the loop is left; its pages are free before the next step.
    async with aclosing(llm.stream(prompt, SamplingParams(max_tokens=400))) as deltas:
        async for delta in deltas:
            tokens += len(delta.token_ids)
            if tokens >= 5:
                break
    return f"{prompt} ... given up after {tokens} tokens"


async def main() -> None:
    async with AsyncLLM("smollm2") as llm:
        work = [finish(llm, "Snow is"), finish(llm, "Grass is"), give_up(llm, "A very long story:")]
        for line in await asyncio.gather(*work):
            print(line)


if __name__ == "__main__":
    asyncio.run(main())
