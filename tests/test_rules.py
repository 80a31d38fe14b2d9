import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper.decoding import DecodingOptions, DecodingTask, GreedyDecoder

from models.whisper_engine.rules import TextState, TokenRules, read_special_tokens
from tests.fakes import random_whisper

CPU = torch.device("cpu")
N_TEXTS, N_STEPS = 6, 30


@pytest.fixture(scope="module", params=[51864, 51865, 51866], ids=["english", "many", "v3"])
def task(request):
    model = random_whisper(n_vocab=request.param)
    return model, DecodingTask(model, DecodingOptions(language="en", fp16=False))


def state_of(tokens: torch.Tensor, timestamp_begin: int) -> TextState:
    """The state that a decoder keeps of all sampled tokens, (n_texts, n_tokens)."""
    n_texts, length = tokens.shape
    nothing = torch.zeros(n_texts, dtype=torch.long)
    last_timestamps = [
        max([t for t in row if t >= timestamp_begin] or [timestamp_begin - 1])
        for row in tokens.tolist()
    ]
    return TextState(
        torch.full((n_texts,), length),
        tokens[:, -1] if length >= 1 else nothing,
        tokens[:, -2] if length >= 2 else nothing,
        torch.tensor(last_timestamps),
    )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), timestamps=st.floats(-4, 4), ends=st.floats(-2, 6))
def test_the_rules_forbid_the_same_tokens_as_whispers_filters(task, seed, timestamps, ends):
    """On random texts that obey the rules, biased towards timestamps, the end, or neither."""
    model, whisper = task
    special = read_special_tokens(model)
    rules = TokenRules(special, model.dims.n_vocab, CPU)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.tensor([whisper.initial_tokens] * N_TEXTS)
    begin, greedy = len(whisper.initial_tokens), GreedyDecoder(0.0, special.eot)
    for _ in range(N_STEPS):
        logits = 3 * torch.randn(N_TEXTS, model.dims.n_vocab, generator=generator)
        logits[:, special.timestamp_begin :] += timestamps
        logits[:, special.eot] += ends + 3 * torch.rand(N_TEXTS, generator=generator)
        expected, found = logits.clone(), logits.clone()
        for logit_filter in whisper.logit_filters:
            logit_filter.apply(expected, tokens)
        rules.apply(found, state_of(tokens[:, begin:], special.timestamp_begin))
        is_live = tokens[:, -1] != special.eot

        assert torch.equal(found[is_live], expected[is_live])
        tokens, _ = greedy.update(tokens, expected, torch.zeros(N_TEXTS))
