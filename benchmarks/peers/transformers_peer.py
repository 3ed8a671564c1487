"""Drives Transformers: bf16 as it comes, and with int8 matrices multiplied by oneDNN.

Best settings: bf16, `torch.inference_mode`, all threads, a loop without `generate`'s overhead, the head
only for the positions that are needed, attention kernel and cache kind by trial. The int8 form quantizes
weights per row and activations per token and multiplies with `torch._int_mm`, the fastest integer product
torch offers here.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from protocol import batch_answer, decode_answer, resident_bytes, serve
from torch import Tensor, nn


class Int8Linear(nn.Module):
    """Weights in int8 with a scale a row, activations in int8 with a scale a token, oneDNN between them."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        wide = linear.weight.detach().float()
        self.scale = wide.abs().amax(1) / 127
        self.weight = (wide / self.scale[:, None]).round().to(torch.int8).t().contiguous()

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        step = flat.abs().amax(1, keepdim=True).float().clamp_min(1e-9) / 127
        whole = torch._int_mm((flat / step).round().to(torch.int8), self.weight)
        return (whole * step * self.scale).to(x.dtype).reshape(*x.shape[:-1], -1)


class Transformers:
    def load(
        self, model: str, threads: int, form: str = "bf16", sequences: int = 1, positions: int = 1024
    ) -> dict[str, Any]:
        torch.set_num_threads(threads)
        start = time.perf_counter()
        dtype = torch.float32 if form == "f32" else torch.bfloat16
        self._model = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()
        if form == "int8":
            for layer in self._model.model.layers:
                for part in (layer.self_attn, layer.mlp):
                    for name, child in list(part.named_children()):
                        if isinstance(child, nn.Linear):
                            setattr(part, name, Int8Linear(child))
        self._head, self._attention = self._model.lm_head, "sdpa"
        return {
            "name": "Transformers",
            "version": f"{transformers.__version__}, torch {torch.__version__}",
            "seconds": time.perf_counter() - start,
            "resident_bytes": resident_bytes(),
        }

    @torch.inference_mode()
    def decode(self, prompt: list[int], tokens: int, **how: Any) -> dict[str, Any]:
        cache = self._cache(len(prompt) + tokens, **how)
        start = time.perf_counter()
        newest = self._step([prompt], cache)
        times, output = [time.perf_counter()], list(newest)
        while len(output) < tokens:
            newest = self._step([newest], cache)
            times.append(time.perf_counter())
            output += newest
        return decode_answer(times, start, output)

    @torch.inference_mode()
    def prefill(self, prompt: list[int], **how: Any) -> dict[str, Any]:
        cache = self._cache(len(prompt), **how)
        start = time.perf_counter()
        self._step([prompt], cache)
        return {"seconds": time.perf_counter() - start, "tokens": len(prompt)}

    @torch.inference_mode()
    def batch(self, prompts: list[list[int]], tokens: int, **how: Any) -> dict[str, Any]:
        """Prompts of equal length, so that no padding slows it down."""
        cache = self._cache(len(prompts[0]) + tokens, **how)
        start = time.perf_counter()
        newest = self._step(prompts, cache)
        steps = [time.perf_counter()]
        for _ in range(tokens - 1):
            newest = self._step([[token] for token in newest], cache)
            steps.append(time.perf_counter())
        return batch_answer(start, steps[-1], tokens * len(prompts), steps)

    @torch.inference_mode()
    def score(self, tokens: list[int], first: int) -> dict[str, Any]:
        rows = self._all_logits(tokens)[first - 1 : -1].double().log_softmax(-1)
        chosen = rows[torch.arange(len(rows)), torch.tensor(tokens[first:])]
        return {"nll": float(-chosen.sum()), "count": len(rows)}

    @torch.inference_mode()
    def logits(self, tokens: list[int], path: str) -> dict[str, Any]:
        np.save(path, self._all_logits(tokens).float().numpy())
        return {"path": path}

    def prepare(self, model: str, path: str, form: str) -> dict[str, Any]:
        """A GGUF file as a safetensors folder, dequantised to bf16 (`hf`)."""
        if form != "hf":
            raise ValueError(f"no form {form}")
        source, part = Path(model), path + ".part"
        read = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
        config = transformers.AutoConfig.from_pretrained(**read)
        read_in = transformers.AutoModelForCausalLM.from_pretrained(**read, dtype=torch.bfloat16)
        # A model that came from GGUF refuses to be saved; one with the same weights does not.
        plain = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        plain.load_state_dict(read_in.state_dict())
        plain.save_pretrained(part)
        transformers.AutoTokenizer.from_pretrained(**read).save_pretrained(part)
        os.rename(part, path)
        return {"path": path}

    def _cache(self, positions: int, attention: str = "sdpa", static: bool = False) -> transformers.Cache:
        if attention != self._attention:
            self._model.set_attn_implementation(attention)
            self._attention = attention
        if static:
            return transformers.StaticCache(config=self._model.config, max_cache_len=positions)
        return transformers.DynamicCache(config=self._model.config)

    def _step(self, tokens: list[list[int]], cache: transformers.Cache) -> list[int]:
        hidden = self._model.model(torch.tensor(tokens), past_key_values=cache, use_cache=True)[0]
        chosen: list[int] = self._head(hidden[:, -1]).argmax(-1).tolist()
        return chosen

    def _all_logits(self, tokens: list[int]) -> Tensor:
        return self._model(torch.tensor([tokens])).logits[0]


if __name__ == "__main__":
    serve(Transformers())
