"""Interview sentences from a small grammar, spoken by eight synthetic voices.

The demo weights are trained on them, and test recordings are made of them. The demo weights know no
other vocabulary or voices.
"""

import random
import re
from dataclasses import dataclass

from scripts.espeak import Speech, espeak


@dataclass(frozen=True)
class Voice:
    """An espeak-ng voice; the variant after the `+` makes it a different speaker."""

    name: str
    espeak: str
    pitch: int
    rate: int  # words per minute


VOICES = (
    Voice("V1", "en", pitch=50, rate=165),
    Voice("V2", "en+f1", pitch=42, rate=170),
    Voice("V3", "en+m7", pitch=60, rate=172),
    Voice("V4", "en+f5", pitch=48, rate=162),
    Voice("V5", "en+klatt4", pitch=35, rate=168),
    Voice("V6", "en+belinda", pitch=55, rate=166),
    Voice("V7", "en+m8", pitch=45, rate=160),
    Voice("V8", "en+f3", pitch=52, rate=164),
)

NAMES = (
    "Sam|Alex|Robin|Jordan|Casey|Morgan|Taylor|Jamie|Charlie|Kerry|Pat|Lee|Eva|Maria|Thomas|Grace"
).split("|")
PLACES = (
    "Brisbane|Cairns|Townsville|Mackay|Toowoomba|Rockhampton|Gladstone|Bundaberg|London|Melbourne"
).split("|")

WORDS = {
    "name": NAMES,
    "place": [
        *PLACES,
        *"the hospital|the clinic|the office|the community centre|the library".split("|"),
    ],
    "person": (
        "the peer worker|the manager|my supervisor|the nurse|our team|the doctor|the social worker|"
        "a colleague|the service user|the carer|the psychologist|my sister|my brother|my mother|"
        "the new worker|everyone here"
    ).split("|"),
    "organisation": (
        "the health service|the charity|the university|the public service|a small organisation|"
        "the local council|the ward"
    ).split("|"),
    "time": (
        "last year|in January|in March|in June|in October|two years ago|every week|on Monday|"
        "on Friday|at the beginning|after a while|these days|in the morning|that night"
    ).split("|"),
    "feeling": (
        "hopeful|worried|proud|tired|grateful|angry|safe|valued|nervous|comfortable|lonely|"
        "confident|ashamed|relieved"
    ).split("|"),
    "judgement": (
        "important|difficult|really helpful|quite new|very different|hard to explain|"
        "good for people|worth the money|a real challenge|a big change|not easy|a long story"
    ).split("|"),
    "thing": (
        "the training|the support|the supervision|the role|the recovery program|the interview|"
        "the diagnosis|the medication|my own story|the flexible hours|the recruitment process|"
        "the first meeting|lived experience|the stigma"
    ).split("|"),
    "did": (
        "changed|helped|supported|surprised|challenged|understood|listened to|encouraged|trusted|"
        "ignored"
    ).split("|"),
    "whom": (
        "the whole team|people in recovery|the other staff|our clients|me a lot|the culture|"
        "everybody|the way we work|the family"
    ).split("|"),
    "number": (
        "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|twenty|thirty|forty"
    ).split("|"),
    "digit": "zero|one|two|three|four|five|six|seven|eight|nine".split("|"),
    "unit": "years|months|weeks|days|people|peers|workers|services".split("|"),
    "filler": ("um|you know|well|look|I mean|honestly|to be fair|yeah|so|actually|I guess").split(
        "|"
    ),
    "ask": (
        "Can you tell me about|What do you think about|How did you feel about|"
        "Could you say more about|What was the hardest part of|How would you describe|"
        "What has changed since|Who decides about"
    ).split("|"),
}

QUESTIONS = (
    "{ask} {thing}?|{ask} {thing} at {place}?|Do you feel {feeling} when {person} talks about "
    "{thing}?|How long have you worked at {organisation}?|Is there anything else you want to say?|"
    "Let us start with {thing}.|I want to hear from {name} first.|That is a good question.|"
    "Thank you for talking with me today.|What happened after {thing}, {name}?"
).split("|")

ANSWERS = (
    "{Filler}, {person} {did} {whom}.|{Person} {did} {whom} {time}.|I felt {feeling} about {thing}."
    "|I was {feeling} and {feeling} {time}.|{Filler}, it was {judgement}.|{Thing} was {judgement}.|"
    "I think {thing} is {judgement}.|My name is {name} and I work at {place}.|"
    "{name} came from {place} {time}.|We had {number} {unit} before {thing} started.|"
    "There were {number} {unit} at {organisation}.|{name} said that {person} {did} {whom}.|"
    "I worked with {name} at {organisation} for {number} {unit}.|Yes, I do.|No, not really.|"
    "{Filler}, about {number} {unit}.|I have been here for {number} {unit}.|"
    "People feel {feeling} because {person} {did} them.|We could not do it without {thing}.|"
    "It took {number} {unit} to change {thing}.|{Person} and {name} went to {place} {time}.|"
    "If you ask me, {thing} needs more money.|Nobody told us about {thing}.|"
    "{Filler}, I was in {place} with {name}.|They do not understand {thing}.|"
    "That is why {thing} is {judgement}.|Before that, I lived in {place} with {person}.|"
    "When I was unwell, {person} {did} me.|I agree with {name} about {thing}.|"
    "I see it as {judgement}.|We are {judgement}, and {person} is {feeling}.|"
    "My number is {digit} {digit} {digit} {digit}.|{name} was {number} years old.|"
    "I do not want to talk about {place}."
).split("|")

BACK_CHANNELS = ("Mm.", "Yeah.", "Right.", "Okay.", "No.", "Yes.", "I see.")


def fill_template(template: str, rng: random.Random) -> str:
    """Replace `{person}` by one of WORDS["person"], and `{Person}` by one with a capital."""

    def choose_word(match: re.Match[str]) -> str:
        key = match[1]
        chosen = rng.choice(WORDS[key.lower()])
        return chosen[0].upper() + chosen[1:] if key[0].isupper() else chosen

    text = re.sub(r"{(\w+)}", choose_word, template)
    return text[0].upper() + text[1:]


def make_question(rng: random.Random) -> str:
    return fill_template(rng.choice(QUESTIONS), rng)


def make_answer(rng: random.Random) -> str:
    return fill_template(rng.choice(ANSWERS), rng)


def make_sentence(rng: random.Random) -> str:
    """Any sentence of these interviews, in roughly natural proportions."""
    kind = rng.random()
    if kind < 0.08:
        return rng.choice(BACK_CHANNELS)
    return make_question(rng) if kind < 0.28 else make_answer(rng)


def speak(text: str, voice: Voice, rng: random.Random) -> Speech:
    """Speak `text` in this voice, with slightly random rate and pitch."""
    return espeak().speak(
        text,
        voice.espeak,
        rate=voice.rate + rng.randint(-8, 8),
        pitch=voice.pitch + rng.randint(-4, 4),
    )
