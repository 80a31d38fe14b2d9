"""The engine against `whisper.decode` at the dimensions of real models, with random weights.

The engine adds numbers in another order than whisper. Where two tokens are almost equally likely it
may therefore choose the other one, and the rest of the text differs. Such texts are excused, but
there must be few of them; all others have the same tokens.
"""

import sys
from collections.abc import Iterator, Sequence

import pytest
import torch
from whisper import DecodingResult, Whisper
from whisper.timing import find_alignment

from models.whisper_engine.decoder import DecodedText
from models.whisper_engine.model import InferenceModel
from models.whisper_engine.word_times import align
from tests.fakes import random_whisper
from tests.plain_whisper import margin_after, plain_decode
from tests.test_decoder import assert_same, decoder_of, limit_texts, texts_of, tokenizer_of

TINY = {"n_state": 384, "n_head": 6, "n_layer": 4}
BASE = {"n_state": 512, "n_head": 8, "n_layer": 6}
ENGLISH, MANY, V3 = (80, 51864), (80, 51865), (128, 51866)  # mels and tokens
MARGIN = 1e-3  # of logits, below which two tokens count as equally likely
LONGEST = 20  # tokens
N_WINDOWS = 3


@pytest.fixture(autouse=True)
def greedy_and_short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("models.whisper_engine.decoder.needs_fallback", lambda text: False)
    monkeypatch.setattr("models.whisper_engine.decoder.ends_in_loop", lambda tokens: False)
    limit_texts(monkeypatch, lambda window_input: LONGEST)
    with torch.inference_mode():
        yield


def mels_of(n_mels: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(n_mels, 6 + 3 * i, generator=generator).repeat_interleave(500, dim=1)[:, :3000]
        for i in range(N_WINDOWS)
    ]


def count_excused(
    model: Whisper,
    mels: Sequence[torch.Tensor],
    texts: Sequence[DecodedText],
    plain: Sequence[DecodingResult],
) -> int:
    """Count texts that differ only from a token that is as likely as whisper's; others fail."""
    excused = 0
    for mel, text, expected in zip(mels, texts, plain, strict=True):
        if text.tokens == tuple(expected.tokens):
            assert_same(text, expected)
            continue
        pairs = enumerate(zip((*text.tokens, -1), (*expected.tokens, -1), strict=False))
        first = next(i for i, (ours, theirs) in pairs if ours != theirs)
        margin = margin_after(model, mel, expected.tokens[:first])
        assert margin < MARGIN, f"token {first} differs, {margin:.4f} above the next"
        excused += 1
    return excused


def whisper_of(
    dims: dict[str, int], n_mels: int = 80, n_vocab: int = 51865, device: str = "cpu"
) -> Whisper:
    """A random Whisper that attends to single moments: averages over 30 s would be all alike."""
    model = random_whisper(n_mels, n_vocab, seed=4, **dims)
    model.encoder.conv2.weight.mul_(10)
    for block in model.decoder.blocks:
        block.cross_attn.query.weight.mul_(8)
    on_device: Whisper = model.to(device)
    return on_device


def assert_same_as_whisper(
    dims: dict[str, int], vocabulary: tuple[int, int], device: str = "cpu"
) -> None:
    model = whisper_of(dims, *vocabulary, device=device)
    mels = [mel.to(device) for mel in mels_of(vocabulary[0])]
    texts = texts_of(decoder_of(model), mels)
    plain = [plain_decode(model, mel, longest=LONGEST) for mel in mels]

    assert len({text.tokens for text in texts}) == N_WINDOWS  # the texts depend on the windows
    assert count_excused(model, mels, texts, plain) <= 1


def test_tiny_with_the_vocabulary_of_v3_decodes_as_whisper():
    assert_same_as_whisper(TINY, V3)


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary", [ENGLISH, MANY], ids=["english", "many"])
def test_tiny_decodes_as_whisper(vocabulary):
    assert_same_as_whisper(TINY, vocabulary)


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary", [ENGLISH, MANY, V3], ids=["english", "many", "v3"])
def test_base_decodes_as_whisper(vocabulary):
    assert_same_as_whisper(BASE, vocabulary)


@pytest.mark.gpu
@pytest.mark.parametrize("vocabulary", [ENGLISH, MANY, V3], ids=["english", "many", "v3"])
def test_base_on_a_gpu_decodes_as_whisper_there(vocabulary):
    torch.backends.cuda.matmul.allow_tf32 = False
    assert_same_as_whisper(BASE, vocabulary, "cuda")


def test_a_difference_is_excused_only_where_two_tokens_are_equally_likely(monkeypatch):
    model, mels = random_whisper(seed=2), mels_of(80)[:1]
    plain = plain_decode(model, mels[0], longest=6)
    changed = DecodedText((*plain.tokens[:3], 1, *plain.tokens[4:]), "", 0.0, 0.0, 0.0, 0.0)
    with pytest.raises(AssertionError, match="token 3 differs"):
        count_excused(model, mels, [changed], [plain])

    monkeypatch.setattr(sys.modules[__name__], "margin_after", lambda *of: MARGIN / 2)
    assert count_excused(model, mels, [changed], [plain]) == 1


def test_the_margin_belongs_to_the_token_that_whisper_chose():
    model, mel = random_whisper(seed=2), mels_of(80)[0]
    plain = plain_decode(model, mel, longest=4)
    margin = margin_after(model, mel, plain.tokens[:3])
    with torch.no_grad():  # makes the fourth token more likely, so the margin must grow
        model.decoder.token_embedding.weight[plain.tokens[3]] *= 1.5

    assert 0 < margin < margin_after(model, mel, plain.tokens[:3])


@pytest.mark.slow
def test_words_of_base_start_where_find_alignment_puts_them():
    model = whisper_of(BASE)
    tokenizer, mels = tokenizer_of(model), mels_of(80)
    heads = [tuple(pair) for pair in model.alignment_heads.indices().T.tolist()]
    texts = [
        tokenizer.encode(text)
        for text in (" It was not easy, she said.", " No.", " We had to leave the house at night!")
    ]
    n_frames = [3000, 330, 1861]
    inference = InferenceModel(model, "fp32")
    cross = inference.make_cross_kv(inference.encode(torch.stack(mels)))
    found = align(inference, tokenizer, texts, n_frames, cross, heads)
    for text, mel, n, aligned in zip(texts, mels, n_frames, found, strict=True):
        begin = 0
        for word in find_alignment(model, tokenizer, text, mel, n):
            assert aligned.times[begin] == pytest.approx(word.start, abs=0.02 + 1e-6)
            begin += len(word.tokens)
