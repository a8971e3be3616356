"""Tiny random models of all architectures of Transformers with a causal language model, made by one rule."""

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

WIDTHS = (
    "hidden_size d_model n_embd dim embed_dim moe_intermediate_size shared_expert_intermediate_size lru_width conv_dim"
)
WIDTHS += (
    " shared_intermediate_size expert_ffn_hidden_size moe_shared_expert_intermediate_size mamba_headdim conv_dim_out"
)
INNER = "intermediate_size ffn_dim ffn_hidden_size n_inner intermediate_size_mlp mamba_d_ssm"
HEADS = "num_attention_heads n_head num_heads n_heads mamba_n_heads mamba_num_heads linear_num_value_heads"
EXPERTS = "num_local_experts num_experts n_routed_experts moe_num_experts"
SINGLE = "n_group topk_group n_shared_experts num_shared_experts first_k_dense_replace num_dense_layers n_groups"
SINGLE += " mamba_n_groups mamba_ngroups zero_expert_num"
PAIRS = "num_hidden_layers n_layer num_layers n_layers num_key_value_heads num_kv_heads n_kv_heads num_experts_per_tok"
PAIRS += " num_experts_per_token moe_k moe_topk top_k linear_num_key_heads index_n_heads mamba_expand n_mamba_heads"
PAIRS += " altup_num_inputs"
EIGHTS = "head_dim qk_rope_head_dim qk_nope_head_dim v_head_dim mamba_d_state ssm_state_size state_size index_head_dim"
EIGHTS += " linear_key_head_dim linear_value_head_dim hidden_size_per_layer_input kv_channels qk_dim v_dim"
SIXTEENS = "kv_lora_rank q_lora_rank qk_head_dim mamba_d_head mamba_head_dim global_head_dim"
CONTEXT = "max_position_embeddings n_positions n_ctx max_seq_len sliding_window attention_window_size"
CONTEXT += " attention_chunk_size attn_window index_topk"
SIZES = {
    **dict.fromkeys(WIDTHS.split(), 32),
    **dict.fromkeys(INNER.split(), 64),
    **dict.fromkeys([*HEADS.split(), *EXPERTS.split(), "mamba_dt_rank", "rotary_dim", "laurel_rank"], 4),
    **dict.fromkeys(SINGLE.split(), 1),
    **dict.fromkeys(PAIRS.split(), 2),
    **dict.fromkeys(EIGHTS.split(), 8),
    **dict.fromkeys(SIXTEENS.split(), 16),
    **dict.fromkeys(CONTEXT.split(), 256),
    "num_kv_shared_layers": 0,
}
"""Settings by the names that configs use."""
HYBRID, CONVOLUTION = ({"layer_types": [kind, "full_attention"]} for kind in ("linear_attention", "conv"))
LATENT = {"num_key_value_heads": 4, "head_dim": None}
EIGHT_WIDE = {"head_dim": 8}
SPECIAL = {
    **dict.fromkeys(("qwen3_5_text", "qwen3_5_moe_text", "qwen3_next"), HYBRID),
    **dict.fromkeys(("axk1", "deepseek_v3", "minicpm3", "sarvam_mla", "youtu"), LATENT),
    **dict.fromkeys(("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral"), EIGHT_WIDE),
    **dict.fromkeys(("lfm3", "lfm2_moe", "lfm2"), CONVOLUTION),
    "bamba": {"attn_layer_indices": [1]},
    "cwm": {"bos_token_id": 1},
    "falcon": {"head_dim": ...},
    "gemma4_text": {"layer_types": ["sliding_attention", "full_attention"]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "modernbert-decoder": {"bos_token_id": 1, "cls_token_id": 1, "sep_token_id": 2},
    "zaya": {"num_experts_per_tok": 1},
}
"""What the rule does not give; `...`: a setting that the config does not accept."""
NOT_TEXT = "aria_text bart bert beam bert-generation big_bird bigbird_pegasus blenderbot blenderbot-small blt camembert"
NOT_TEXT += " data2vec-text electra emu3 ernie fuyu gemma4_assistant gemma4_unified_assistant git got_ocr2 marian mbart"
NOT_TEXT += " megatron-bert mllama moshi moss_transcribe_diarize musicgen musicgen_melody mvp pegasus phi4_multimodal"
NOT_TEXT += " plbart prophetnet reformer rembert roberta roberta-prelayernorm roc_bert roformer trocr whisper xlm"
NOT_TEXT += " xlm-roberta xlm-roberta-xl xlnet xmod"
"""Encoders, decoders of an encoder, and models whose text needs other inputs."""
UNMADE = "axk2 bailing_hybrid cohere_compass_text dbrx deepseek_v2 deepseek_v32 dots1 dots3_note dots3_note_text"
UNMADE += " glm4_moe_lite glm_moe_dsa kimi_linear longcat_flash mamba2 nemotron qwen4_exp qwen4_exp_text"
UNMADE += " recurrent_gemma xlstm zamba zamba2"
"""Those whose sizes the rule does not fit to each other."""
ARCHITECTURES = sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES} - {*NOT_TEXT.split(), *UNMADE.split()})


def tiny_config(model_type: str, **tokens) -> PreTrainedConfig:
    """Return the config of a text model with tiny sizes and without dropout."""
    kind = CONFIG_MAPPING[model_type]
    if "text_config" in kind.sub_configs:
        kind = kind.sub_configs["text_config"]
    default = kind().to_dict()
    settings = {name: size for name, size in SIZES.items() if default.get(name) is not None}
    settings |= {name: 0.0 for name, value in default.items() if is_noise(name) and isinstance(value, float)}
    settings |= tokens | SPECIAL.get(kind.model_type, {})
    return kind(**{name: value for name, value in settings.items() if value is not ...})


def is_noise(name: str) -> bool:
    return any(word in name for word in ("drop", "jitter"))


def tiny_model(model_type: str, **tokens) -> PreTrainedModel:
    """Return a random model of `tiny_config`, with weights so large that its logits differ."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(model_type, **tokens), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.1)
    return model.eval()
