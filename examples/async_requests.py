"""Requests that come and go in an async program: two finish, one is given up half way.

python examples/async_requests.py
"""

import asyncio

from trimtab import AsyncLLM, SamplingParams


async def finish(llm: AsyncLLM, prompt: str) -> str:
    completion = await llm.generate(prompt, SamplingParams(temperature=0, max_tokens=16))
    return f"{prompt}{completion.text!r}"


async def give_up(llm: AsyncLLM, prompt: str) -> str:
    tokens = 0
    async for delta in llm.stream(prompt, SamplingParams(max_tokens=400)):
        tokens += len(delta.token_ids)
        if tokens >= 5:
            break  # closes the stream; the engine takes the pages back before its next step
    return f"{prompt} ... given up after {tokens} tokens"


async def main() -> None:
    async with AsyncLLM("smollm2") as llm:
        work = [finish(llm, "Snow is"), finish(llm, "Grass is"), give_up(llm, "A very long story:")]
        for line in await asyncio.gather(*work):
            print(line)


if __name__ == "__main__":
    asyncio.run(main())
