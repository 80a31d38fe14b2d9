"""Translates the names and dimensions of Hugging Face Whisper checkpoints to openai-whisper's.

whisper.py reads and checks the files.
Source: transformers/models/whisper/convert_openai_to_hf.py, in reverse.
"""

from collections.abc import Mapping
from typing import Any

# openai-whisper's name: the name in config.json.
_DIMENSIONS = {
    "n_mels": "num_mel_bins",
    "n_audio_ctx": "max_source_positions",
    "n_audio_state": "d_model",
    "n_audio_head": "encoder_attention_heads",
    "n_audio_layer": "encoder_layers",
    "n_vocab": "vocab_size",
    "n_text_ctx": "max_target_positions",
    "n_text_state": "d_model",
    "n_text_head": "decoder_attention_heads",
    "n_text_layer": "decoder_layers",
}

# Order matters: some later names are parts of earlier ones.
_NAMES = (
    ("encoder.layer_norm.", "encoder.ln_post."),
    ("decoder.layer_norm.", "decoder.ln."),
    ("embed_positions.weight", "positional_embedding"),
    ("embed_tokens", "token_embedding"),
    (".layers.", ".blocks."),
    ("self_attn_layer_norm", "attn_ln"),
    ("encoder_attn_layer_norm", "cross_attn_ln"),
    ("final_layer_norm", "mlp_ln"),
    ("encoder_attn.", "cross_attn."),
    ("self_attn.", "attn."),
    ("q_proj", "query"),
    ("k_proj", "key"),
    ("v_proj", "value"),
    ("out_proj", "out"),
    ("fc1", "mlp.0"),
    ("fc2", "mlp.2"),
)


def openai_name(name: str) -> str:
    """`decoder.blocks.0.attn.query.weight` for `model.decoder.layers.0.self_attn.q_proj.weight`."""
    name = name.removeprefix("model.")
    for theirs, ours in _NAMES:
        name = name.replace(theirs, ours)
    return name


def dimensions(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Dimensions from config.json; None unless it describes a Whisper as OpenAI published it."""
    as_published = {
        "model_type": "whisper",
        "activation_function": "gelu",
        "scale_embedding": False,
        "tie_word_embeddings": True,
    }
    if config.get("model_type") is None or any(
        config.get(name, value) != value for name, value in as_published.items()
    ):
        return None
    return {ours: config.get(theirs) for ours, theirs in _DIMENSIONS.items()}
