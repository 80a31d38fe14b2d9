"""Finds the roster's names and aliases, including misspelt, split or joined ones."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from models.deidentification import vocabulary
from models.deidentification.dates import BEFORE_A_MONTH
from models.deidentification.lexicons import Lexicons
from models.deidentification.occurrences import LABEL_OF_KIND, KnownEntity, Span
from models.deidentification.phonetics import deletions, may_be_spellings, plain, sound_keys
from models.deidentification.tokens import Token, tokenise

MAX_WORDS = 8  # of a name that is looked up as a unit
AFTER_A_VERB = frozenset(
    "you you're to that so i we they it for the a this he she your my not be have do there there's"
    " all these those if".split()
)


@dataclass(frozen=True)
class _Form:
    """One spelling of an entity. `partial`: a word of its name rather than the whole of it."""

    entity: KnownEntity
    partial: bool
    keeps_possessive: bool
    needs_article: bool


class KnownNames:
    """An index of a roster; look-ups take the same time for ten entries and for thousands."""

    def __init__(self, entities: Sequence[KnownEntity], lexicons: Lexicons) -> None:
        self.lexicons = lexicons
        self._phrases: dict[tuple[str, ...], _Form] = {}
        self._by_sound: defaultdict[str, list[str]] = defaultdict(list)
        self._by_deletion: defaultdict[str, list[str]] = defaultdict(list)
        self._words: dict[str, _Form] = {}  # plain spelling of one-word forms
        self._similar: dict[str, tuple[str, float] | None] = {}
        for entity in entities:
            for i, name in enumerate((entity.name, *entity.aliases)):
                self._add(entity, name, is_alias=i > 0)
        self.longest = max((len(phrase) for phrase in self._phrases), default=0)
        self.words = frozenset(word for phrase in self._phrases for word in phrase)

    def _add(self, entity: KnownEntity, name: str, *, is_alias: bool) -> None:
        tokens = tokenise(name, self.lexicons)[:MAX_WORDS]
        needs_article = bool(tokens) and tokens[0].lower == "the"
        tokens = tokens[needs_article:]
        if not tokens:
            return
        form = _Form(entity, False, tokens[-1].full_end > tokens[-1].end, needs_article)
        self._add_form(tuple(_normal(token.lower) for token in tokens), form)
        if len(tokens) == 1:
            return
        self._add_word(plain("".join(token.lower for token in tokens)), form)
        if entity.kind == "organisation" and len(tokens) > 2:
            ending = tuple(_normal(token.lower) for token in tokens[-2:])
            self._add_form(ending, _Form(entity, True, False, True))  # the Peer Collective
        for token in tokens:
            if self._is_distinctive(token, entity) and not (is_alias and entity.kind != "person"):
                keeps = entity.kind != "person" and token.full_end > token.end
                self._add_form((_normal(token.lower),), _Form(entity, True, keeps, False))

    def _is_distinctive(self, token: Token, entity: KnownEntity) -> bool:
        word = token.lower
        if len(word) < 2 or word in vocabulary.TITLES | vocabulary.CONNECTORS:
            return False
        if entity.kind == "person":
            return True
        lexicons = self.lexicons
        return (
            token.band == 0
            and word not in vocabulary.GENERIC
            and not any(
                word in names for names in (lexicons.places, lexicons.first_names, lexicons.world)
            )
        )

    def _add_form(self, words: tuple[str, ...], form: _Form) -> None:
        existing = self._phrases.get(words)
        if existing is None or (existing.partial and not form.partial):
            self._phrases[words] = form
        if len(words) == 1:
            self._add_word(plain(words[0]), form)

    def _add_word(self, word: str, form: _Form) -> None:
        if not word or word in self._words:
            return
        self._words[word] = form
        for key in sound_keys(word):
            self._by_sound[key].append(word)
        for shorter in deletions(word):
            self._by_deletion[shorter].append(word)

    def find(self, tokens: Sequence[Token], *, cased: bool) -> list[Span]:
        spans = []
        i = 0
        while i < len(tokens):
            found = self._exact(tokens, i, cased) or self._variant(tokens, i, cased)
            if found is None:
                i += 1
                continue
            end, span = found
            spans.append(span)
            i = end
        return spans

    def _exact(self, tokens: Sequence[Token], i: int, cased: bool) -> tuple[int, Span] | None:
        if _normal(tokens[i].lower) not in self.words:
            return None
        for length in range(min(self.longest, len(tokens) - i), 0, -1):
            form = self._phrases.get(tuple(_normal(t.lower) for t in tokens[i : i + length]))
            if form is None:
                continue
            if any(t.gap.strip() not in ("", "-", ".") for t in tokens[i + 1 : i + length]):
                continue
            certainty = self._certainty(tokens, i, length, form, cased)
            if certainty == 0:
                continue
            return i + length, _span(tokens, i, i + length, form, certainty, "roster")
        return None

    def _certainty(
        self, tokens: Sequence[Token], i: int, length: int, form: _Form, cased: bool
    ) -> float:
        token = tokens[i]
        before = tokens[i - 1].lower if i else ""
        after = tokens[i + length].lower if i + length < len(tokens) else ""
        joined = i + length < len(tokens) and tokens[i + length].gap.strip() == ""
        if form.needs_article and before != "the":
            return 0
        if length > 1:
            certain = token.is_capitalised or not cased
            return (0.65 if form.partial else 0.98) if certain else 0 if form.partial else 0.6
        is_word = token.band > 0 or token.lower in vocabulary.MONTHS
        if not token.is_capitalised:
            if cased:
                return 0.5 if token.band == 0 and token.lower not in vocabulary.MONTHS else 0
            has_cue = before in vocabulary.KIN | vocabulary.NAMING | vocabulary.TITLES
            return 0.6 if has_cue or not is_word else 0
        if not is_word:
            return 0.98
        if token.lower in vocabulary.MONTHS:
            if before in BEFORE_A_MONTH and before not in (
                "and",
                "to",
                "by",
                "from",
                "before",
                "after",
            ):
                return 0
            return (
                0.9 if joined and after in vocabulary.SPEECH or not token.begins_sentence else 0.5
            )
        if not token.begins_sentence:
            return 0.9
        if token.full_end > token.end:
            return 0.8  # Hope's the one
        if joined and after in AFTER_A_VERB:
            return 0
        return 0.8 if joined and (after in vocabulary.SPEECH or after in ("and", "from")) else 0.5

    def _variant(self, tokens: Sequence[Token], i: int, cased: bool) -> tuple[int, Span] | None:
        """Find a misspelling of one word, or one word that was heard as two."""
        token = tokens[i]
        if not token.is_capitalised or token.is_function_word or not self._words:
            return None
        if i + 1 < len(tokens) and (tokens[i + 1].gap == "-" or tokens[i + 1].is_capitalised):
            following = tokens[i + 1]
            if following.gap in (" ", "-") and not following.is_function_word:
                found = self._similar_word(plain(token.lower + following.lower))
                ordinary = token.band in (1, 2) or following.band in (1, 2)
                if found and found[1] >= (0.9 if ordinary else 0.7):
                    return i + 2, _span(
                        tokens, i, i + 2, self._words[found[0]], 0.85, "roster_variant"
                    )
        if token.lower in vocabulary.MONTHS or token.lower in vocabulary.ADDRESS_FORMS:
            return None
        if token.band and (token.begins_sentence or token.band < 3):
            return None
        if token.lower in vocabulary.NATIONALITIES | vocabulary.RELIGIONS | vocabulary.ACRONYMS:
            return None
        found = self._similar_word(plain(token.lower))
        if found is None:
            return None
        certainty = found[1]
        if token.band == 0 and not token.begins_sentence:
            certainty = max(certainty, 0.75)
        elif token.lower in self.lexicons.first_names and token.band == 0:
            certainty = max(certainty, 0.75)
        return i + 1, _span(tokens, i, i + 1, self._words[found[0]], certainty, "roster_variant")

    def _similar_word(self, word: str) -> tuple[str, float] | None:
        if word not in self._similar:
            candidates = {form for key in sound_keys(word) for form in self._by_sound.get(key, ())}
            for shorter in deletions(word):
                candidates.update(self._by_deletion.get(shorter, ()))
            scored = sorted(
                ((may_be_spellings(word, form), form) for form in candidates), reverse=True
            )
            best = scored[0] if scored else (0.0, "")
            self._similar[word] = (best[1], best[0]) if best[0] >= 0.5 else None
        return self._similar[word]


def _normal(word: str) -> str:
    return "saint" if word == "st" else word


def _span(
    tokens: Sequence[Token], i: int, end: int, form: _Form, certainty: float, rule: str
) -> Span:
    last = tokens[end - 1]
    return Span(
        tokens[i].start,
        last.full_end if form.keeps_possessive else last.end,
        LABEL_OF_KIND[form.entity.kind],
        certainty,
        "sure" if certainty >= 0.7 else "unsure",
        rule,
        form.entity.id,
    )
