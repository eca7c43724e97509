"""How speech units are released: fairseq's HuBERT, its k-means, and the vocoder, each a file of its own."""

from collections.abc import Mapping

from omniform.codecs.units import Units
from omniform.frozen import FrozenMap
from omniform.parts import Rules

LAYER: Mapping[str, str] = FrozenMap({
    "self_attn.": "attention.", "self_attn_layer_norm.": "layer_norm.", "fc1.": "feed_forward.intermediate_dense.",
    "fc2.": "feed_forward.output_dense.", "final_layer_norm.": "final_layer_norm.",
})  # fmt: skip
NORMED = "encoder.pos_conv_embed.conv.parametrizations.weight.original"


def hubert_rules(codec: Units, prefix: str) -> Rules:
    """Keys of fairseq (facebookresearch/fairseq v0.12.2 fairseq/models/{wav2vec/wav2vec2,hubert/hubert}.py) and ours.

    Its heads for pre-training are left out.
    """
    convs = "feature_extractor.conv_layers."
    first = ((f"{convs}0.2.", f"{convs}0.layer_norm."),)
    rest = tuple((f"{convs}{i}.0.", f"{convs}{i}.conv.") for i in range(len(codec.kernels)))
    layers = tuple((f"encoder.layers.{i}.{a}", f"encoder.layers.{i}.{b}") for i in range(codec.layers)
                   for a, b in LAYER.items())  # fmt: skip
    own = (
        ("post_extract_proj.", "feature_projection.projection."), ("mask_emb", "masked_spec_embed"),
        ("encoder.pos_conv.0.weight_g", NORMED + "0"), ("encoder.pos_conv.0.weight_v", NORMED + "1"),
        ("encoder.pos_conv.0.bias", "encoder.pos_conv_embed.conv.bias"), ("encoder.layer_norm.", "encoder.layer_norm."),
        ("layer_norm.", "feature_projection.layer_norm."),
    )  # fmt: skip
    return tuple((a, prefix + b) for a, b in (*first, *rest, *layers, *own))


MHUBERT, MEANS = "mhubert_base_vp_en_es_fr_it3", "mhubert_base_vp_en_es_fr_it3_L11_km1000"
VOCODER = "mhubert_vp_en_es_fr_it3_400k_layer11_km1000_lj"
"""Names of the files at dl.fbaipublicfiles.com; the vocoder's is g_00500000 in a folder of this name."""


def separate(prefix: str) -> Mapping[str, str]:
    """For `Layout.separate`: where the weights of mHuBERT's units lie."""
    return FrozenMap({f"{prefix}hubert.": MHUBERT, f"{prefix}kmeans.": MEANS, f"{prefix}vocoder.": VOCODER})


def separate_rules(codec: Units, prefix: str) -> Mapping[str, Rules]:
    """For `Layout.separate_rules`; the k-means, a pickle of another library, is saved as "cluster_centers_"."""
    return FrozenMap({
        MHUBERT: hubert_rules(codec, f"{prefix}hubert."), MEANS: (("cluster_centers_", f"{prefix}kmeans.centers"),),
        VOCODER: (("generator.", f"{prefix}vocoder."),),
    })  # fmt: skip
