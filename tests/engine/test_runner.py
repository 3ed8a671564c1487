"""The native runner on tiny checkpoints: against Transformers, against its own roundings in torch, and
against itself in other company.

Tolerance of exact weights: that of the torch backend (see tests/models/test_architectures.py), since the
native sums have no more terms. About 2.5e-5 is reached; logits spread over 12.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab import _native
from trimtab.engine.batch import PAGE_TOKENS, Batch
from trimtab.engine.runner import NativeRunner
from trimtab.engine.sampling import ADJUST, SAMPLING, sample_reference
from trimtab.errors import Unsupported, UsageError
from trimtab.formats.source import open_source
from trimtab.models.config import config_from

sys.path.append(str(Path(__file__).parents[1] / "models"))
from rounded import rounded_logits
from tiny import (
    CLASSES,
    VARIANTS,
    VOCAB,
    batch_of,
    make_tiny,
    make_variant,
    num_pages_for,
    reference_logits,
    run_in_chunks,
    some_tokens,
)
from tiny_gguf import gguf_from

Floats = npt.NDArray[np.float32]

TOLERANCE = 2e-4
KERNEL_SETS = _native.kernel_sets()
SEQUENCES = [some_tokens(60), some_tokens(33, 1), some_tokens(5, 2)]
WHOLE = [[60], [33], [5]]
IN_CHUNKS = [[20, 1, 1, 1, 17, 20], [1, 0, 31, 1], [0, 0, 5]]
SHORT = [some_tokens(4, seed) for seed in range(24)]

Folders = Callable[..., Path]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Tiny checkpoints by name and type, each made once."""
    made: dict[tuple[str, str], Path] = {}

    def folder(name: str, dtype: str = "bfloat16") -> Path:
        if (name, dtype) not in made:
            made[name, dtype] = make_variant(name, tmp_path_factory.mktemp("tiny"), dtype)
        return made[name, dtype]

    return folder


def open_runner(path: Path, sequences: Sequence[Sequence[int]] = SEQUENCES, **settings: Any) -> NativeRunner:
    source = open_source(path)
    chosen = {
        "num_pages": num_pages_for(sequences), "max_rows": 128, "max_wanted": 128, "threads": 1,
        "context": max(map(len, sequences)), "kv_type": "f32",
    } | settings  # fmt: skip
    try:
        return NativeRunner.open(source, config_from(source), **chosen)
    finally:
        source.close()


def run(
    path: Path,
    chunks: Sequence[Sequence[int]] = WHOLE,
    sequences: Sequence[Sequence[int]] = SEQUENCES,
    **settings: Any,
) -> list[Floats]:
    """Logits of every position of every sequence."""
    with closing(open_runner(path, sequences, **settings)) as runner:
        return run_in_chunks(runner.logits, sequences, chunks)


# ---- the right numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_equal_transformers(name: str, folders: Folders) -> None:
    folder = folders(name)
    expected = reference_logits(folder, SEQUENCES[0])
    assert np.ptp(expected) > 3, "logits this flat would prove nothing"
    for kernels in KERNEL_SETS:
        got = run(folder, IN_CHUNKS, kernels=kernels)
        np.testing.assert_allclose(got[0], expected, atol=TOLERANCE, rtol=0, err_msg=kernels)


def hidden_states(folder: Path, tokens: Sequence[int]) -> Floats:
    """What Transformers' vocabulary projection reads, (tokens, width)."""
    model = transformers.AutoModel.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        states = model(torch.tensor([list(tokens)]), use_cache=False).last_hidden_state
    return np.asarray(states[0].numpy(), np.float32)


def hidden_of(runner: Any) -> Callable[[Batch], Floats]:
    """Run batches for the hidden states of all their rows and nothing else."""

    def run_batch(batch: Batch) -> Floats:
        batch.hidden, batch.wanted = batch.wanted, batch.wanted[:0]
        batch.sampling, batch.adjust_start = batch.sampling[:0], batch.adjust_start[:1]
        return np.array(runner.step(batch).hidden)

    return run_batch


@pytest.mark.parametrize("name", VARIANTS)
def test_hidden_states_equal_transformers(name: str, folders: Folders) -> None:
    """No sum comes after them, so the tolerance of the logits is more than they need."""
    folder = folders(name)
    expected = hidden_states(folder, SEQUENCES[0])
    assert np.ptp(expected) > 3
    for kernels in KERNEL_SETS:
        with closing(open_runner(folder, kernels=kernels)) as runner:
            got = run_in_chunks(hidden_of(runner), SEQUENCES, IN_CHUNKS)
        np.testing.assert_allclose(got[0], expected, atol=TOLERANCE, rtol=0, err_msg=kernels)


def test_hidden_states_and_tokens_of_one_step(folders: Folders) -> None:
    """Both are asked for by their rows; neither changes the other."""
    sequence = SEQUENCES[0][:20]
    with closing(open_runner(folders("llama"), [sequence])) as runner:
        batch = batch_of([(sequence, 0, [1, 2])])
        alone = runner.step(batch).tokens
        every = hidden_of(runner)(batch_of([(sequence, 0, [1, 2])]))
        batch.hidden = np.array([19, 3, 3], np.int32)
        both = runner.step(batch)
        assert both.hidden is not None
        assert np.array_equal(both.hidden, every[[19, 3, 3]])
        assert np.array_equal(both.tokens, alone)
        batch.hidden = np.array([20], np.int32)
        with pytest.raises(ValueError, match="hidden row"):
            runner.step(batch)


AWKWARD: dict[str, dict[str, Any]] = {
    "ragged": {
        "hidden_size": 99,
        "intermediate_size": 72,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
    },
    "narrow": {"hidden_size": 33, "intermediate_size": 7, "num_attention_heads": 1, "num_key_value_heads": 1},
    "queries": {"hidden_size": 98, "num_attention_heads": 14, "num_key_value_heads": 1, "head_dim": 16},
    "wide": {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 256},
}


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_sizes(name: str, tmp_path: Path) -> None:
    folder = make_tiny("llama", tmp_path, "bfloat16", **AWKWARD[name])
    expected = reference_logits(folder, SEQUENCES[0])
    for kernels in KERNEL_SETS:
        got = run(folder, IN_CHUNKS, kernels=kernels)
        np.testing.assert_allclose(got[0], expected, atol=TOLERANCE, rtol=0, err_msg=kernels)
    for format in ("int8", "q4", "q4/16", "q4-sym", "q8"):
        agree(run(folder, [[4]] * len(SHORT), SHORT, format=format), rounded_logits(folder, SHORT, format))


@pytest.mark.parametrize(
    "name", ["llama-biased", "qwen2", "qwen3", "gemma2", "gemma3", "phi3-long", "phi3-partial"]
)
def test_gguf_files_hold_the_same_model(name: str, folders: Folders, tmp_path: Path) -> None:
    """Other tensor names, permuted query and key rows, norms that already count from zero."""
    path = gguf_from(folders(name), tmp_path / "tiny.gguf")
    for a, b in zip(run(path), run(folders(name)), strict=True):
        np.testing.assert_allclose(a, b, atol=TOLERANCE, rtol=0)


def agree(got: Sequence[Floats], expected: Sequence[Floats]) -> None:
    """Most sequences to the last places, and none far off.

    An activation within float32 rounding of the middle between two steps may go either way, and moves its
    sequence by up to a step of it. A wrong scale or a wrong lane moves them all.
    """
    errors = [float(np.abs(a - b).max()) for a, b in zip(got, expected, strict=True)]
    assert np.mean(np.array(errors) < TOLERANCE) > 0.5
    assert max(errors) < 0.4


@pytest.mark.parametrize("kv_type", ["f32", "bf16", "int8"])
@pytest.mark.parametrize("format", ["bf16", "int8", "q4", "q4/16", "q4-sym", "q8"])
@pytest.mark.parametrize("name", ["llama-biased", "qwen3", "gemma2", "gemma3"])
def test_every_format_rounds_as_it_says(name: str, format: str, kv_type: Any, folders: Folders) -> None:
    folder = folders(name, "float32")
    got = run(folder, [[4]] * len(SHORT), SHORT, format=format, kv_type=kv_type)
    agree(got, rounded_logits(folder, SHORT, format, kv_type))


@pytest.mark.parametrize("quant", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", "BF16"])
@pytest.mark.parametrize("name", ["llama", "phi3"])
def test_quantised_files_run_as_they_are(name: str, quant: str, tmp_path: Path) -> None:
    """Weights lose nothing; activations rounded to 127 steps move logits of spread 12 by 0.04 on average."""
    folder = make_tiny(name, tmp_path)
    path = gguf_from(folder, tmp_path / "tiny.gguf", quant)
    got = run(path, [[4]] * len(SHORT), SHORT, kv_type="f32")
    agree(got, rounded_logits(path, SHORT))
    expected = reference_logits(folder, SEQUENCES[0])  # of the file's own, dequantised weights
    error = np.abs(run(path)[0] - expected).mean()
    assert error < (0.02 if quant == "F16" else TOLERANCE if quant == "BF16" else 0.08)


@pytest.mark.parametrize(("kv_type", "most"), [("bf16", 0.01), ("int8", 0.04)])
def test_narrow_pages_cost_little(kv_type: str, most: float, folders: Folders) -> None:
    for name in ("llama", "gemma3"):
        for exact, narrow in zip(
            run(folders(name)), run(folders(name), IN_CHUNKS, kv_type=kv_type), strict=True
        ):
            assert 0 < np.abs(exact - narrow).mean() < most


# ---- the same numbers in any company -------------------------------------------------------------

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def runners(folders: Folders) -> Iterator[Callable[..., NativeRunner]]:
    """Runners by settings, each opened once; their pages keep what earlier examples left there."""
    opened: dict[tuple[Any, ...], NativeRunner] = {}

    def runner(name: str, **settings: Any) -> NativeRunner:
        key = (name, *sorted(settings.items()))
        if key not in opened:
            opened[key] = open_runner(folders(name, "float32"), num_pages=32, context=40, **settings)
        return opened[key]

    yield runner
    for one in opened.values():
        one.close()


@settings(max_examples=30)
@given(data=st.data())
def test_a_row_is_the_same_in_any_company(data: st.DataObject, runners: Callable[..., NativeRunner]) -> None:
    """Bit for bit: chunks of the prefill, neighbours, order of spans, pages, threads."""
    name = data.draw(st.sampled_from(["llama", "mistral", "gemma3"]))
    chosen = {
        "format": data.draw(st.sampled_from(["bf16", "int8", "q4"])),
        "kv_type": data.draw(st.sampled_from(["f32", "bf16", "int8"])),
        "kernels": data.draw(st.sampled_from(KERNEL_SETS)),
    }
    sequences = [some_tokens(length, seed) for seed, length in enumerate(data.draw(LENGTHS))]
    alone = [
        run_in_chunks(runners(name, threads=1, **chosen).logits, [sequence], [[len(sequence)]])[0]
        for sequence in sequences
    ]
    runner = runners(name, threads=data.draw(st.sampled_from([1, 2, 2, 3])), **chosen)
    free = data.draw(st.permutations(range(32)))
    pages = [[free.pop() for _ in range(-(-len(sequence) // PAGE_TOKENS))] for sequence in sequences]
    done = [0] * len(sequences)
    while waiting := [s for s, sequence in enumerate(sequences) if done[s] < len(sequence)]:
        here = data.draw(st.lists(st.sampled_from(waiting), unique=True, min_size=1))
        counts = [data.draw(st.integers(1, min(31, len(sequences[s]) - done[s]))) for s in here]
        spans = [
            (sequences[s][done[s] : done[s] + count], done[s], pages[s])
            for s, count in zip(here, counts, strict=True)
        ]
        answer, row = runner.logits(batch_of(spans)), 0
        for s, count in zip(here, counts, strict=True):
            assert np.array_equal(answer[row : row + count], alone[s][done[s] : done[s] + count])
            row, done[s] = row + count, done[s] + count


def test_many_rows_are_the_rows_of_few(folders: Folders) -> None:
    """A hundred rows take other splits of the work than one."""
    for threads in (1, 2, 3):
        whole = run(folders("gemma2"), threads=threads, kv_type="bf16")
        steps = run(folders("gemma2"), [[1] * 60, [1] * 33, [1] * 5], threads=1, kv_type="bf16")
        for a, b in zip(whole, steps, strict=True):
            assert np.array_equal(a, b)


# ---- a step --------------------------------------------------------------------------------------


def sampling_rows(count: int) -> npt.NDArray[Any]:
    """Greedy, drawn, scored and reporting rows in turn."""
    rows = np.zeros(count, SAMPLING)
    rows["top_p"], rows["repetition"], rows["score"], rows["top_logprobs"] = 1, 1, -1, 0
    rows["temperature"] = np.arange(count) % 3 * 0.7
    rows["score"][3::4] = 17
    rows["top_logprobs"][::2] = 5
    rows["seed"], rows["draw"] = 5, np.arange(count)
    return rows


def adjusted(batch: Batch) -> Batch:
    """Biases on every third row; every second row may only choose even tokens, or only odd ones."""
    rows = len(batch.wanted)
    counts = np.where(np.arange(rows) % 3 == 0, 2, 0)
    batch.adjust = np.tile(np.array([(4, 1, 0, 9.5), (6, 0, 1, -3.0)], ADJUST), int((counts > 0).sum()))
    batch.adjust_start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    words = -(-VOCAB // 32)
    batch.mask = np.array([[0x55555555] * words, [0xAAAAAAAA] * words], np.uint32)
    batch.sampling["mask"] = np.arange(rows) % 2 * (1 + np.arange(rows) // 2 % 2)
    return batch


@pytest.mark.parametrize("with_adjustments", [False, True])
def test_a_step_samples_the_logits(with_adjustments: bool, folders: Folders) -> None:
    """Tokens are those of the reference on the same logits (the sampler's own tests are elsewhere)."""
    with closing(open_runner(folders("llama"), threads=2)) as runner:
        batch = batch_of([(SEQUENCES[1], 0, [1, 2, 3])], sampling_rows(33))
        if with_adjustments:
            batch = adjusted(batch)
        logits, result = runner.logits(batch), runner.step(batch)
        for i, (row, values) in enumerate(zip(batch.sampling, logits, strict=True)):
            adjust = batch.adjust[batch.adjust_start[i] : batch.adjust_start[i + 1]]
            mask = batch.mask[row["mask"] - 1] if batch.mask is not None and row["mask"] else None
            expected = sample_reference(values, row, adjust, mask)
            assert result.tokens[i] == expected[0]
            np.testing.assert_allclose(result.logprobs[i], expected[1], atol=1e-5)
            top = int(row["top_logprobs"])
            assert np.array_equal(result.top_tokens[i, :top], expected[2][:top])
        assert result.top_tokens.shape == result.top_logprobs.shape == (33, 5)


def test_results_are_the_callers_to_keep(folders: Folders) -> None:
    with closing(open_runner(folders("llama"))) as runner:
        first = runner.step(batch_of([(SEQUENCES[2], 0, [0])]))
        kept = first.tokens.copy()
        runner.step(batch_of([(SEQUENCES[1], 0, [1, 2, 3])]))
        assert np.array_equal(first.tokens, kept)
        assert first.top_tokens.shape == (0, 0)


def test_a_step_may_want_nothing(folders: Folders) -> None:
    """A prefill chunk that is not the last of its prompt."""
    with closing(open_runner(folders("llama"))) as runner:
        batch = batch_of([(SEQUENCES[0][:40], 0, [0, 1, 2, 3])])
        batch.wanted, batch.sampling = batch.wanted[:0], batch.sampling[:0]
        batch.adjust_start = np.zeros(1, np.int32)
        assert len(runner.step(batch).tokens) == 0
        assert runner.logits(batch).shape == (0, VOCAB)
        rest = runner.logits(batch_of([(SEQUENCES[0][40:], 40, [0, 1, 2, 3])]))
    assert np.array_equal(rest, run(folders("llama"))[0][40:])


def test_limits_hold(folders: Folders) -> None:
    with closing(open_runner(folders("llama"), max_rows=8, max_wanted=2, num_pages=2)) as runner:
        assert (runner.max_rows, runner.max_wanted, runner.num_pages) == (8, 2, 2)
        for count, pages in ((9, [0]), (3, [0]), (2, [2]), (17, [0])):
            with pytest.raises(ValueError, match=r"rows|page|results"):
                runner.step(batch_of([(some_tokens(count), 0, pages)]))
        assert len(runner.step(batch_of([([1, 2], 0, [1])])).tokens) == 2


# ---- before and around it ------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["auto", "bf16", "int8", "q4", "q4/16", "q4-sym", "q8"])
@pytest.mark.parametrize("name", ["llama", "llama-tied", "gemma3", "phi3"])
def test_sizes_are_what_is_taken(name: str, format: str, folders: Folders) -> None:
    """Memory comes in pages of the system; the plan counts the bytes in it."""
    limits = {"max_rows": 37, "max_wanted": 5, "context": 64}
    for kv_type in ("bf16", "int8"):
        with closing(open_source(folders(name, "float32"))) as source:
            config = config_from(source)
            sizes = NativeRunner.sizes(source, config, **limits, kv_type=kv_type, format=format)
            made = NativeRunner.open(
                source, config, **limits, num_pages=9, kv_type=kv_type, format=format, threads=1
            )
        with closing(made) as runner:
            assert runner.memory["weights"] == sizes.weights + sizes.sketch
            assert 0 <= runner.memory["scratch"] - sizes.scratch < 4096
            assert 0 <= runner.memory["pages"] - 9 * sizes.page < 4096


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"kv_type": "f16"}, UsageError, r"`f16`\n\nhint: choose one of bf16, int8, f32"),
        ({"format": "q3"}, Unsupported, "`q3`"),
        ({"kernels": "sse9"}, UsageError, "sse9"),
        ({"threads": 0}, UsageError, "thread"),
        ({"threads": 4096, "pin": True}, UsageError, "4096 threads"),
    ],
)
def test_impossible_settings_are_refused(
    settings: dict[str, Any], error: type[Exception], says: str, folders: Folders
) -> None:
    with pytest.raises(error, match=says):
        open_runner(folders("llama"), **settings)


@pytest.mark.parametrize("head_dim", [8, 24, 272])
def test_heads_the_kernels_cannot_run_are_refused_early(head_dim: int, tmp_path: Path) -> None:
    folder = make_tiny("llama", tmp_path, head_dim=head_dim)
    with pytest.raises(Unsupported, match=f"heads of {head_dim}"):
        open_runner(folder)
    with closing(open_source(folder)) as source, pytest.raises(Unsupported, match=f"heads of {head_dim}"):
        NativeRunner.sizes(source, config_from(source), max_rows=8, max_wanted=8, context=64)


def test_pinned_threads_answer_the_same(folders: Folders) -> None:
    expected, got = run(folders("llama")), []
    # In a thread of its own, so that the test's own processors stay as they were.
    caller = threading.Thread(target=lambda: got.extend(run(folders("llama"), threads=1, pin=True)))
    caller.start()
    caller.join()
    assert np.array_equal(got[0], expected[0])


@pytest.mark.parametrize("name", CLASSES)
def test_every_architecture_samples(name: str, folders: Folders) -> None:
    """Greedy tokens of whole steps are the highest logits, for each recorded program."""
    with closing(open_runner(folders(name), kv_type="bf16")) as runner:
        batch = batch_of([(SEQUENCES[1], 0, [1, 2, 3]), (SEQUENCES[2], 0, [0])])
        assert np.array_equal(runner.step(batch).tokens, runner.logits(batch).argmax(axis=1))
