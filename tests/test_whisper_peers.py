from pathlib import Path

from models.weights.catalogue import WhisperWeights
from scripts.whisper_peers import Peers


def test_a_peer_transcribes_a_recording_once(tmp_path, monkeypatch):
    """A peer's five beams take longer than all of ours, and give the same again."""
    recording, other = tmp_path / "a.wav", tmp_path / "b.wav"
    recording.write_bytes(b"sound")
    other.write_bytes(b"another")
    asked = []

    def transcribe(self, audio, language, options):
        asked.append((audio.name, options))
        return "my name is Eva"

    monkeypatch.setattr(Peers, "_openai", transcribe)
    weights = WhisperWeights("base", Path("base.pt"), "a" * 64, demo=False)
    for _ in range(2):  # the second time in a new process
        peers = Peers(weights, tmp_path / "cache", 1)
        assert peers.transcribe("openai-whisper", recording, "en").text == "my name is Eva"
    peers.transcribe("openai-whisper", other, "en")

    assert asked == [("a.wav", {}), ("b.wav", {})]
