"""Speech from espeak-ng's library, with the time of every word.

The command-line program outputs sound only. The library also reports when each word and each
phoneme starts, which reference word times need. Source: espeak-ng/speak_lib.h (1.51).
"""

import ctypes
import ctypes.util
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy.signal import resample_poly

# Values from speak_lib.h.
SYNCHRONOUS, PHONEME_EVENTS, CHARACTERS, UTF8 = 2, 1, 1, 1
RATE, PITCH = 1, 3
LIST_TERMINATED, WORD, PHONEME = 0, 1, 7

ESPEAK_RATE = 22_050  # Hz
SILENCE = 0.003  # of full scale; quieter samples at both ends are trimmed


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # of the first character, counted from 1
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # ms
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("phoneme", ctypes.c_char * 8),
    ]


_SynthCallback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@dataclass(frozen=True)
class SpokenWord:
    """A word of the text with its punctuation; seconds from the start of the sound."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Speech:
    """`samples`: float32, shape (n_samples,), 16 kHz, at most 0.7 of full scale."""

    samples: np.ndarray
    words: tuple[SpokenWord, ...]


class Espeak:
    """The speech synthesiser. Its state is global, so use the one of `espeak()`."""

    def __init__(self) -> None:
        name = ctypes.util.find_library("espeak-ng")
        if name is None:
            raise RuntimeError("espeak-ng is not installed. Run: sudo apt-get install espeak-ng")
        self._library = ctypes.CDLL(name)
        rate = self._library.espeak_Initialize(SYNCHRONOUS, 0, None, PHONEME_EVENTS)
        if rate != ESPEAK_RATE:
            raise RuntimeError(f"espeak-ng speaks at {rate} Hz, not {ESPEAK_RATE}")
        self._samples: list[np.ndarray] = []
        self._events: list[tuple[int, float, int, bytes]] = []
        self._callback = _SynthCallback(
            self._collect
        )  # keep it alive: the library holds only a pointer
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: Any, n_samples: int, events: Any) -> int:
        if samples and n_samples:
            self._samples.append(np.ctypeslib.as_array(samples, (n_samples,)).copy())
        for event in events:
            if event.type == LIST_TERMINATED:
                break
            self._events.append(
                (event.type, event.audio_position / 1000, event.text_position, event.phoneme)
            )
        return 0

    def speak(self, text: str, voice: str, *, rate: int, pitch: int) -> Speech:
        """Synthesise `text`.

        Args:
            voice: as espeak-ng names it: `en+m7`.
            rate: words per minute.
            pitch: 0 to 99.
        """
        self._samples, self._events = [], []
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice}")
        self._library.espeak_SetParameter(RATE, rate, 0)
        self._library.espeak_SetParameter(PITCH, pitch, 0)
        raw = text.encode() + b"\0"
        self._library.espeak_Synth(raw, len(raw), 0, CHARACTERS, 0, UTF8, None, None)
        sound = np.concatenate(self._samples).astype(np.float32) / 32768
        loud = np.flatnonzero(np.abs(sound) > SILENCE)
        first, last = int(loud[0]), int(loud[-1]) + 1
        samples = resample_poly(sound[first:last], 320, 441).astype(np.float32)
        samples *= 0.7 / np.abs(samples).max()
        words = self._time_words(text, first / ESPEAK_RATE, last / ESPEAK_RATE)
        return Speech(samples, words)

    def _time_words(self, text: str, start: float, end: float) -> tuple[SpokenWord, ...]:
        """Words of `text` with their times, relative to `start`.

        A word starts at its event and ends where the next pause or the next word starts.
        """
        starts = {position: time for kind, time, position, _ in self._events if kind == WORD}
        pauses = [
            time for kind, time, _, name in self._events if kind == PHONEME and name[:1] == b"_"
        ]
        groups: list[tuple[float, list[str]]] = []
        position = 0
        for word in text.split():
            position = text.index(word, position) + 1
            if position in starts:
                groups.append((starts[position], [word]))
            else:  # espeak-ng reports some pairs ("have been") as one word: split by letters
                groups[-1][1].append(word)
        words = []
        for i, (begin, group) in enumerate(groups):
            stops = [time for time in pauses if time > begin] + [end]
            stop = min(stops + [time for time, _ in groups[i + 1 : i + 2]])
            begin, stop = (min(max(time, start), end) - start for time in (begin, stop))
            for word in group:
                share = (stop - begin) * len(word) / sum(len(w) for w in group)
                words.append(SpokenWord(word, round(begin, 3), round(begin + share, 3)))
                begin, group = begin + share, group[1:]
        return tuple(words)


@cache
def espeak() -> Espeak:
    return Espeak()
