"""Detectors of other libraries: loaded from local folders as data, without a network."""

import importlib.util
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from models.deidentification.detect import REDUCED, detect
from models.deidentification.foreign_labels import OURS, label_of
from models.deidentification.gliner_model import (
    ASKED,
    STEP,
    WINDOW,
    GlinerDetector,
    check_gliner,
    cut_windows,
)
from models.deidentification.occurrences import LABELS, Span, SpokenSegment
from models.deidentification.optional_detectors import check_detectors, load_detectors
from models.pyannote_guard import stub_torchaudio_extension
from models.weights.errors import (
    ModelMissing,
    UnsafeCheckpoint,
    UnsupportedCheckpoint,
    WeightsCorrupt,
)

WORDS = "[PAD] [UNK] [CLS] [SEP] siobhan gall ##agher lives in moe and works here . , '".split()
TAGS = {
    "siobhan": "B-PER",
    "gall": "I-PER",
    "##agher": "I-PER",
    "moe": "B-LOC",
    "works": "B-MISC",
}


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    """A folder with a token classifier that knows a few words, written by the library."""
    import torch

    stub_torchaudio_extension()
    from transformers import AutoTokenizer, BertConfig, BertForTokenClassification

    folder = tmp_path_factory.mktemp("tagger")
    labels = ["O", "B-PER", "I-PER", "B-LOC", "B-MISC"]
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=8,
        num_hidden_layers=0,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=16,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    model = BertForTokenClassification(config)
    embeddings = model.bert.embeddings
    with torch.no_grad():
        embeddings.position_embeddings.weight.zero_()
        embeddings.token_type_embeddings.weight.zero_()
        embeddings.word_embeddings.weight.zero_()
        model.classifier.weight.zero_()
        model.classifier.bias.zero_()
        model.classifier.weight[:, : len(labels)] = 5 * torch.eye(len(labels))
        for i, word in enumerate(WORDS):
            embeddings.word_embeddings.weight[i, labels.index(TAGS.get(word, "O"))] = 1
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    AutoTokenizer.from_pretrained(folder, do_lower_case=True).save_pretrained(folder)
    return folder


def copied(tagger, folder, **changes):
    """A copy of the folder with another config.json."""
    folder.mkdir()
    for path in tagger.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def found(detector, *texts):
    return [
        [(text[span.start : span.end], span.label) for span in spans]
        for text, spans in zip(texts, detector.find(list(texts)), strict=True)
    ]


# --- Hugging Face ---------------------------------------------------------------------------------


def test_a_token_classifier_joins_the_pieces_of_a_name(tagger, tmp_path, no_sockets):
    check_detectors(f"hf:{tagger}", tmp_path)
    (detector,) = load_detectors(f"hf:{tagger}", tmp_path)

    assert found(detector, "Siobhan Gallagher lives in Moe, and works here.", "", "here") == [
        [("Siobhan Gallagher", "PERSON"), ("Moe", "PLACE")],
        [],
        [],
    ]


def test_names_are_found_in_every_part_of_a_long_text(tagger, tmp_path, no_sockets):
    """The model knows 16 positions, so this text takes many windows."""
    (detector,) = load_detectors(f"hf:{tagger}", tmp_path)
    text = "here and here and " * 20 + "Siobhan Gallagher lives in Moe " + "and here " * 20
    text += "and Siobhan"

    assert found(detector, text) == [
        [("Siobhan Gallagher", "PERSON"), ("Moe", "PLACE"), ("Siobhan", "PERSON")]
    ]


def test_two_names_that_follow_each_other_stay_two(tagger, tmp_path, no_sockets):
    (detector,) = load_detectors(f"hf:{tagger}", tmp_path)

    assert found(detector, "Siobhan Siobhan") == [[("Siobhan", "PERSON"), ("Siobhan", "PERSON")]]


def test_its_names_are_suggestions_that_a_rule_can_confirm(tagger, tmp_path, no_sockets):
    detectors = load_detectors(f"hf:{tagger}", tmp_path)
    segment = SpokenSegment("s0001", "A", "My sister Siobhan lives here, and works in Moe.")
    findings = detect([segment], [], detectors)

    assert REDUCED not in findings.notes
    by_text = {segment.text[o.start : o.end]: o for o in findings.occurrences}
    assert (by_text["Siobhan"].tier, by_text["Siobhan"].label) == ("sure", "PERSON")
    assert "token_classifier" in by_text["Siobhan"].rule


def test_a_model_with_code_of_its_own_is_refused(tagger, tmp_path):
    folder = copied(tagger, tmp_path / "evil", auto_map={"AutoModel": "evil.Model"})
    for use in (check_detectors, load_detectors):
        with pytest.raises(UnsafeCheckpoint):
            use(f"hf:{folder}", tmp_path)


def test_weights_that_could_run_code_are_refused(tagger, tmp_path):
    folder = copied(tagger, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UnsafeCheckpoint):
        load_detectors(f"hf:{folder}", tmp_path)


def test_a_model_without_labels_of_identifiers_is_refused(tagger, tmp_path):
    folder = copied(tagger, tmp_path / "moods", id2label={"0": "HAPPY", "1": "SAD"})
    with pytest.raises(UnsupportedCheckpoint):
        load_detectors(f"hf:{folder}", tmp_path)


def test_a_damaged_or_missing_model_has_its_error(tagger, tmp_path):
    folder = copied(tagger, tmp_path / "damaged")
    (folder / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(WeightsCorrupt):
        load_detectors(f"hf:{folder}", tmp_path)
    (folder / "config.json").write_text("{")
    with pytest.raises(WeightsCorrupt):
        check_detectors(f"hf:{folder}", tmp_path)
    for name in ("hf:/nowhere", "gliner:/nowhere"):
        with pytest.raises(ModelMissing):
            check_detectors(name, tmp_path)


# --- GLiNER ---------------------------------------------------------------------------------------


def test_windows_overlap_and_cover_a_text():
    words = [f"w{i}" for i in range(2 * STEP + 30)]
    text = "  ".join(words)
    windows = list(cut_windows(text))

    assert all(text[start : start + len(part)] == part for start, part in windows)
    assert {word for _, part in windows for word in part.split()} == set(words)
    assert max(len(part.split()) for _, part in windows) == WINDOW
    assert list(cut_windows("")) == []


def test_what_gliner_finds_is_placed_in_the_whole_text_once():
    def inference(parts, labels, **_):
        assert labels == list(ASKED)
        return [
            [
                {"start": part.index("Eva"), "end": part.index("Eva") + 3, "label": "person"},
                {"start": 0, "end": 1, "label": "mood"},
            ]
            if "Eva" in part
            else []
            for part in parts
        ]

    text = "and then " * 90 + "Eva said " + "and then " * 90  # in the part that windows share
    detector = GlinerDetector(SimpleNamespace(inference=inference), "fake")

    assert found(detector, text, "nobody") == [[("Eva", "PERSON")], []]


def test_a_gliner_model_in_a_pickle_is_refused(tmp_path):
    (tmp_path / "gliner_config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UnsafeCheckpoint):
        check_gliner(tmp_path)


# --- Presidio -------------------------------------------------------------------------------------

WITHOUT_NETWORK = """
import socket
def refuse(*arguments, **_):
    raise SystemExit(f"a connection was attempted: {arguments}")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from pathlib import Path
from models.deidentification.optional_detectors import load_detectors
detectors = load_detectors("presidio", Path())
text = "Ring 0412 345 678, or mail eva.muster@example.org; my Medicare card is 2123 45670 1."
for detector in detectors:
    for span in detector.find([text])[0]:
        print(span.label, text[span.start : span.end])
"""


def test_presidio_calls_nobody():
    """With its defaults it downloads a model, and at the first e-mail address a list of domains."""
    if importlib.util.find_spec("presidio_analyzer") is None:
        pytest.skip("presidio-analyzer is not installed")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_NETWORK], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert {"PHONE 0412 345 678", "EMAIL eva.muster@example.org", "ID 2123 45670 1"} <= set(lines)


def test_without_its_library_a_detector_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("models.deidentification.presidio.find_spec", lambda name: None)
    with pytest.raises(ModelMissing, match="pip install presidio-analyzer"):
        check_detectors("presidio", tmp_path)


# --- all ------------------------------------------------------------------------------------------


class Fixed:
    """Suggests a fixed part of each text."""

    name = "fixed"

    def __init__(self, part, label, *, finds_names=True):
        self.part, self.label, self.finds_names = part, label, finds_names

    def find(self, texts):
        return [
            [
                Span(at, at + len(self.part), self.label, 0.5, "unsure", "fixed")
                for at in [text.find(self.part)]
                if at >= 0
            ]
            for text in texts
        ]


def test_a_number_that_no_rule_knows_is_suggested():
    segment = SpokenSegment("s0001", "A", "The ticket said qx-77-41, whatever that is.")
    findings = detect([segment], [], [Fixed("qx-77-41", "ID", finds_names=False)])

    (only,) = [o for o in findings.occurrences if o.rule == "fixed"]
    assert (only.label, only.tier) == ("ID", "unsure")
    assert REDUCED in findings.notes  # such a detector finds no names


def test_detectors_that_agree_on_a_name_make_it_sure():
    segment = SpokenSegment("s0001", "A", "We met Tregarthen there, at the end of it.")
    one, two = Fixed("Tregarthen", "PERSON"), Fixed("Tregarthen", "PERSON")
    tiers = [
        {o.tier for o in detect([segment], [], models).occurrences} for models in ([one, two], [])
    ]

    assert tiers[0] == {"sure"}


def test_labels_of_other_models_have_ours():
    assert [label_of(name) for name in ("B-PER", "I-LOC", "street address", "E-ORG", "O")] == [
        "PERSON",
        "PLACE",
        "ADDRESS",
        "ORGANISATION",
        None,
    ]
    assert set(OURS.values()) <= set(LABELS)
    assert all(label_of(name) for name in ASKED)


def test_no_detector_is_loaded_unless_named(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "models.deidentification.optional_detectors.find_installed_package", lambda *_: None
    )
    assert load_detectors("none", tmp_path) == load_detectors(" , none", tmp_path) == []
