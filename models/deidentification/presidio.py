"""Presidio's recognisers as a detector: numbers with checksums and addresses as written.

Presidio's defaults download a model and a list of domains when they are first used. Here it gets
an engine without a model, recognisers by name, and the list of domains in tldextract's package.
Names are left to other detectors.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from models.deidentification.foreign_labels import label_of
from models.deidentification.occurrences import Span
from models.environment import set_library_variables
from models.pyannote_guard import stub_torchaudio_extension
from models.weights.errors import ModelMissing

THRESHOLD = 0.3
LANGUAGE = "en"


class PresidioDetector:
    """Loaded once; `find` may be called any number of times."""

    name = "presidio"
    finds_names = False

    def __init__(self, analyzer: Any) -> None:
        self._analyzer = analyzer

    def find(self, texts: Sequence[str]) -> list[list[Span]]:
        return [
            [
                Span(result.start, result.end, label, 0.5, "unsure", "presidio")
                for result in self._analyzer.analyze(
                    text, language=LANGUAGE, score_threshold=THRESHOLD
                )
                if (label := label_of(result.entity_type)) is not None
            ]
            for text in texts
        ]


def load_presidio() -> PresidioDetector:
    """
    Raises:
        ModelMissing
    """
    check_presidio()
    set_library_variables()
    if find_spec("torch") is not None:
        stub_torchaudio_extension()  # Presidio imports transformers, and that torchaudio
    import spacy
    import tldextract
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import NlpArtifacts, SpacyNlpEngine
    from presidio_analyzer.predefined_recognizers import (
        AuAbnRecognizer,
        AuAcnRecognizer,
        AuMedicareRecognizer,
        AuTfnRecognizer,
        CreditCardRecognizer,
        EmailRecognizer,
        IbanRecognizer,
        IpRecognizer,
        PhoneRecognizer,
        UrlRecognizer,
    )

    # With its defaults, the first e-mail address has it download a list of domains.
    tldextract.extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)

    class BlankNlpEngine(SpacyNlpEngine):  # type: ignore[misc]  # untyped
        """spaCy's tokenizer without a model.

        Words stand in for lemmas, by which recognisers know their context.
        """

        engine_name = "blank"
        is_available = True

        def __init__(self) -> None:
            super().__init__(models=[{"lang_code": LANGUAGE, "model_name": "blank"}])
            self.load()

        def load(self) -> None:
            self.nlp = {LANGUAGE: spacy.blank(LANGUAGE)}

        def _doc_to_nlp_artifact(self, doc: Any, language: str) -> Any:
            return NlpArtifacts(
                entities=[],
                tokens=doc,
                tokens_indices=[token.idx for token in doc],
                lemmas=[token.lower_ for token in doc],
                nlp_engine=self,
                language=language,
                scores=[],
            )

    registry = RecognizerRegistry(
        recognizers=[
            AuAbnRecognizer(),
            AuAcnRecognizer(),
            AuMedicareRecognizer(),
            AuTfnRecognizer(),
            CreditCardRecognizer(),
            EmailRecognizer(),
            IbanRecognizer(),
            IpRecognizer(),
            PhoneRecognizer(supported_regions=("AU",)),  # not one of the defaults
            UrlRecognizer(),
        ],
        supported_languages=[LANGUAGE],
    )
    analyzer = AnalyzerEngine(
        registry=registry,
        nlp_engine=BlankNlpEngine(),
        supported_languages=[LANGUAGE],
        log_decision_process=False,  # the log would hold the text
    )
    return PresidioDetector(analyzer)


def check_presidio() -> None:
    """
    Raises:
        ModelMissing
    """
    if find_spec("presidio_analyzer") is None or find_spec("spacy") is None:
        raise ModelMissing("Presidio is not installed: run `pip install presidio-analyzer`.")
