"""A long transcript of random words, to measure what a page does with two hours of speech."""

import random

from models.transcript import Flag, MadeWith, Segment, Source, Transcript, Turn, Word

WORDS = (
    "the of and to in that was it for we have had not this they were with but what when there"
    " people ward team peer work support meeting because really think know going about never always"
    " somebody something different difficult"
).split()
MADE_WITH = MadeWith("0", "demo", "0" * 64, "demo", "0" * 64, "cpu", {}, {})


def long_transcript(
    *, n_words: int = 20_000, n_segments: int = 869, n_speakers: int = 7, duration: float = 7800.0
) -> Transcript:
    """A focus group; by default one of two hours."""
    source = random.Random(1)
    seconds = duration / n_words  # per word
    segments: list[Segment] = []
    n_done = 0
    for i in range(n_segments):
        n = round(n_words / n_segments * source.uniform(0.3, 1.7))
        n = n_words - n_done if i == n_segments - 1 else max(1, min(n, n_words - n_done))
        words = []
        for j in range(n):
            start = round((n_done + j) * seconds, 2)
            text = source.choice(WORDS)
            text = (text.capitalize() if j == 0 else text) + ("." if j == n - 1 else "")
            probability = round(source.betavariate(6, 1), 3)
            words.append(Word(f" {text}", start, round(start + 0.9 * seconds, 2), probability))
        n_done += n
        if not words:
            break
        speaker = f"SPEAKER_{i % n_speakers:02d}"
        end = round(n_done * seconds, 2)
        segments.append(Segment(speaker, words[0].start, end, tuple(words), f"s{i + 1:04d}"))
    return Transcript(
        duration=duration,
        language="en",
        language_probability=None,
        speakers=tuple(f"SPEAKER_{i:02d}" for i in range(n_speakers)),
        segments=tuple(segments),
        turns=tuple(Turn(each.start, each.end, each.speaker or "") for each in segments),
        overlaps=(),
        flags=tuple(
            Flag("low_probability", each.start, each.end, {"mean_word_probability": 0.31})
            for each in segments[7::50]
        ),
        sources=(Source(0.0, duration, "wav", "pcm_s16le", 16_000, 1, 0),),
        made_with=MADE_WITH,
    )
