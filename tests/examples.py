"""One or more small examples of every declaration, for the contract tests of the folders of parts."""

from __future__ import annotations

from omniform.codecs.encodec import ENCODEC_24K, ENCODEC_32K
from omniform.codecs.mel_units import MelUnits
from omniform.codecs.painter import SD_1_5, SDXL
from omniform.codecs.quantised import Quantised
from omniform.codecs.query_detokenizer import QueryDetokenizer
from omniform.codecs.speech_tokenizer import SPEECH_TOKENIZER
from omniform.codecs.units import MHUBERT_KM1000
from omniform.codecs.vqgan import MAKE_A_SCENE_512
from omniform.connectors.bracketed import Bracketed
from omniform.connectors.c_abstractor import CAbstractor
from omniform.connectors.conv_glu import ConvGlu
from omniform.connectors.d_abstractor import DAbstractor
from omniform.connectors.downsample_mlp import DownsampleMlp
from omniform.connectors.fused_mlp import FusedMlp
from omniform.connectors.glu import Glu
from omniform.connectors.grouping import Grouping
from omniform.connectors.ldp_v2 import FusedLdpV2, LdpV2
from omniform.connectors.linear import Linear
from omniform.connectors.mlp import Mlp
from omniform.connectors.mof_mlp import MofMlp
from omniform.connectors.normed_mlp import NormedMlp
from omniform.connectors.patch_merger import PatchMerger
from omniform.connectors.patch_mining import PatchMining
from omniform.connectors.perceiver_resampler import PerceiverResampler
from omniform.connectors.pooled_mlp import PooledMlp
from omniform.connectors.qformer import QFormer
from omniform.connectors.query_transformer import QueryTransformer
from omniform.connectors.spread import Spread
from omniform.connectors.stacked_mlp import StackedMlp
from omniform.connectors.token_merger import TokenMerger
from omniform.connectors.window_qformer import WindowQFormer
from omniform.encoders.beats import BEATS_ITER3_PLUS_AS2M
from omniform.encoders.clip import CLIP_L_224, CLIP_L_224_POOLED
from omniform.encoders.conv_net import ConvNet
from omniform.encoders.convnext_clip import CONVNEXT_CLIP_L_768
from omniform.encoders.cropped import Cropped
from omniform.encoders.dinov2 import DINOV2_L_336, DINOV2_L_518, DINOV2_L_REG_384
from omniform.encoders.efficientnet_lite0 import EfficientNetLite0
from omniform.encoders.eva2_clip import EVA2_CLIP_E_490
from omniform.encoders.eva_vit import EVA_G_224
from omniform.encoders.hubert import HUBERT_XLARGE, WAVLM_LARGE
from omniform.encoders.imagebind_audio import IMAGEBIND_HUGE_AUDIO
from omniform.encoders.imagebind_vision import IMAGEBIND_HUGE
from omniform.encoders.mel_conv_net import MelConvNet
from omniform.encoders.native_vit import VIT_675M
from omniform.encoders.open_clip import OPEN_CLIP_L_224
from omniform.encoders.s2 import S2
from omniform.encoders.selected import Selected
from omniform.encoders.several import Several
from omniform.encoders.several_audio import SeveralAudio
from omniform.encoders.siglip import SIGLIP_SO400M_384
from omniform.encoders.whisper import WHISPER_LARGE_V2
from omniform.parts import Codec, Connector, Encoder, Views
from omniform.views.among import Among
from omniform.views.any_res import AnyRes, grids_up_to
from omniform.views.clips import SoundClips, VideoClips
from omniform.views.dynamic_s2 import DynamicS2
from omniform.views.fixed import Fixed
from omniform.views.frames import Frames
from omniform.views.native import Native, NativeFrames
from omniform.views.pooled_frames import PooledFrames
from omniform.views.tiles import Tiles
from omniform.views.whole import Whole
from omniform.views.windows import Windows

NEXT_GRIDS = ((2, 1), (1, 2), (2, 2), (1, 3), (3, 1))
CLIP, SIGLIP = CLIP_L_224.shrunk("tiny"), SIGLIP_SO400M_384.shrunk("tiny")
WHISPER, BEATS = WHISPER_LARGE_V2.shrunk("tiny"), BEATS_ITER3_PLUS_AS2M.shrunk("tiny")
NATIVE = VIT_675M.shrunk("tiny")

VIEWS: tuple[Views, ...] = (
    Fixed(fit="squash"),
    Fixed(fit="crop"),
    Fixed(fit="pad", newline="newline"),
    Fixed(fit="pad", fill=(255, 255, 255), copies=3),
    AnyRes(grids=NEXT_GRIDS),
    AnyRes(grids=grids_up_to(6, 6), max_tiles=9),
    AnyRes(grids=grids_up_to(3, 3), max_tiles=2, newline=None),
    Among(alone=AnyRes(grids=NEXT_GRIDS), together=Fixed(fit="pad", newline="newline")),
    Tiles(max_tiles=12),
    Tiles(min_tiles=2, max_tiles=6, overview=False, after="\n"),
    DynamicS2(after="\n"),
    DynamicS2(sides=(1, 2), max_tiles=5),
    Frames(most=4),
    Frames(most=8, per_second=1.0, pool=2, newline="newline"),
    Frames(most=3, pool=2, newline="newline", newline_at="frame", fit="pad"),
    Frames(most=3, newline="newline", newline_at="row", repeat=True, rounding="nearest"),
    Frames(most=4, after="\n", copies=2),
    PooledFrames(frames=8, pools=((4, 1, 1),), after="\n"),
    VideoClips(clips=3),
    VideoClips(clips=2, crops=1, seconds=1.5),
    Fixed(fit="crop", middle="nearest"),
    PooledFrames(frames=6, pools=((2, 2, 1), (3, 1, 4)), before="<", between="|", copies=2),
)
SOUND_VIEWS: tuple[Views, ...] = (
    Windows(),
    Windows(most=1, least=1.0, mix="first"),
    Windows(most=3, least=0.02),
    Windows(most=1, multiple=7),
    SoundClips(),
    SoundClips(clips=2, mix="mean"),
    Whole(),
    Whole(mix="first"),
)
FREE_VIEWS: tuple[Native | NativeFrames, ...] = (
    Native(min_pixels=4 * 36, max_pixels=256 * 36),
    NativeFrames(min_pixels=4 * 36, max_pixels=16 * 36, total_pixels=64 * 36),
    NativeFrames(per_second=0.5, least=1, most=6, min_pixels=36, max_pixels=9 * 36, total_pixels=36),
)
"""Views of no fixed size."""
WINDOW = QFormer(positions=1, width=12, layers=2, heads=3, mlp_dim=20, cross_every=1, dropout=0.0, normed=False)
GROUPING = Grouping(width=16, heads=2, tokens=(6, 4), groups=(6, 4), depths=(1, 1, 1), hard=False, noisy=False)
CONNECTORS: tuple[Connector, ...] = (
    Linear(),
    Mlp(),
    Mlp(depth=1),
    Mlp(depth=3),
    NormedMlp(),
    PooledMlp(positions=4),
    PooledMlp(positions=9, depth=3),
    DownsampleMlp(),
    DownsampleMlp(by_column=True),
    DownsampleMlp(fold=3, hidden=(3,)),
    DownsampleMlp(fold=3, hidden=(3, 1, 1 / 3)),
    Glu(mlp_dim=24),
    ConvGlu(mlp_dim=24),
    ConvGlu(mlp_dim=16, fold=3, widened=True, divisor=4.0),
    MofMlp(),
    CAbstractor(positions=4, depth=2, width=16, trained=(6, 6)),
    CAbstractor(positions=9, depth=1, width=12, mlp_depth=1, trained=(5, 5)),
    DAbstractor(positions=4, width=12, layers=2, heads=2, mlp_dim=20, dropout=0.0, trained=(6, 6)),
    DAbstractor(positions=9, width=16, layers=1, heads=4, points=2, mlp_dim=20, dropout=0.0, trained=(5, 5)),
    QFormer(positions=3, width=16, layers=3, heads=2, mlp_dim=20, dropout=0.0),
    QFormer(positions=2, width=12, layers=2, heads=3, mlp_dim=20, cross_every=1, dropout=0.0),
    QueryTransformer(positions=3, width=16, layers=1, heads=2, mlp_dim=20),
    QueryTransformer(positions=1, width=12, layers=2, heads=3, mlp_dim=24),
    QFormer(positions=1, width=12, layers=1, heads=3, mlp_dim=20, dropout=0.0, normed=False),
    GROUPING,
    GROUPING.but(tokens=(3, 2), groups=(5, 4), depths=(1, 2, 1)),
    WindowQFormer(inner=WINDOW, kernel=5, stride=3),
    WindowQFormer(inner=WINDOW.but(positions=2, cross_every=2), kernel=4, stride=4),
    PatchMining(),
    PatchMining(depth=1),
    PerceiverResampler(positions=3, layers=2, heads=2, head_dim=5),
    PerceiverResampler(positions=4, layers=1, heads=3, head_dim=4, mlp_ratio=2),
    FusedMlp(),
    LdpV2(side=4),
    Spread(positions=3),
    FusedLdpV2(side=3, expand=2),
    Bracketed(inner=Linear()),
    Bracketed(inner=StackedMlp(fold=2, hidden=16)),
    StackedMlp(hidden=24),
    StackedMlp(fold=2, hidden=16),
    PatchMerger(),
    PatchMerger(fold=3),
    TokenMerger(layers=1, heads=2, mlp_ratio=2.5),
    TokenMerger(layers=2, heads=3, mlp_ratio=2.0, project="tanh"),
)
ENCODERS: tuple[Encoder, ...] = (
    CLIP,
    CLIP.but(feature_layer=-1, post_norm=False),
    CLIP_L_224_POOLED.shrunk("tiny"),
    OPEN_CLIP_L_224.shrunk("tiny"),
    OPEN_CLIP_L_224.shrunk("tiny").but(feature_layer=-2, post_norm=False),
    SIGLIP,
    SIGLIP.but(drop_first=True, head=False),
    DINOV2_L_518.shrunk("tiny"),
    DINOV2_L_336.shrunk("tiny"),
    DINOV2_L_518.shrunk("tiny").but(gated=True, feature_layer=-3),
    DINOV2_L_REG_384.shrunk("tiny"),
    EVA2_CLIP_E_490.shrunk("tiny"),
    EVA2_CLIP_E_490.shrunk("tiny").but(feature_layer=-2),
    EVA_G_224.shrunk("tiny"),
    EVA_G_224.shrunk("tiny").but(feature_layer=-2, keep_class=False, trained_image=36),
    EVA_G_224.shrunk("tiny").but(head=7),
    ConvNet(image=24, widths=(8, 16, 32)),
    EfficientNetLite0(image=32, stage=3),
    CONVNEXT_CLIP_L_768.shrunk("tiny"),
    CONVNEXT_CLIP_L_768.shrunk("tiny").but(depths=(1, 2, 1, 1), taken=(1, 2)),
    IMAGEBIND_HUGE.shrunk("tiny"),
    IMAGEBIND_HUGE.shrunk("tiny").but(held_image=32, unit=False, together=1),
    IMAGEBIND_HUGE_AUDIO.shrunk("tiny"),
    IMAGEBIND_HUGE_AUDIO.shrunk("tiny").but(columns=36, stride=7, scaled=False),
    Cropped(inner=CLIP),
    Cropped(inner=CLIP, side=3, overview=False),
    S2(inner=SIGLIP),
    S2(inner=ConvNet(image=16, widths=(8, 16)), sides=(1, 3)),
    Several(members=(CLIP, DINOV2_L_518.shrunk("tiny"))),
    Several(members=(SIGLIP.but(image=48), ConvNet(image=24, widths=(8, 16, 32)))),
    Several(members=(Cropped(inner=CLIP), CONVNEXT_CLIP_L_768.shrunk("tiny"))),
    WHISPER,
    WHISPER.but(padded=False, mels=12),
    WHISPER.but(rows="heard"),
    WHISPER.but(rows="attended", pool=2),
    WHISPER.but(rows="cut"),
    BEATS,
    BEATS.but(classes=0),
    SeveralAudio(members=(WHISPER, BEATS)),
    MelConvNet(mels=8, columns=24, widths=(8, 16), kernel=3),
    MelConvNet(mels=6, columns=21, widths=(6, 12, 9), depth=2, groups=3),
    HUBERT_XLARGE.shrunk("tiny"),
    WAVLM_LARGE.shrunk("tiny"),
    NATIVE,
    NATIVE.but(together=1, patch=4, image=24),
    Selected(inner=CLIP),
    Selected(inner=EVA_G_224.shrunk("tiny").but(keep_class=False, head=7), name="Eye", drawn=False),
)
CHOSEN = Quantised(
    encoder=Selected(inner=EVA_G_224.but(keep_class=False)),
    connector=TokenMerger(project="tanh"),
    unit=True,
    detokenizer=QueryDetokenizer(conditions=(768, 1280), pooled=1280),
    painter=SDXL,
)
CODECS: tuple[Codec, ...] = (
    MAKE_A_SCENE_512.shrunk("tiny"),
    MAKE_A_SCENE_512.shrunk("tiny").but(levels=(1, 2), blocks=2, image=16, attended=(16, 8)),
    MHUBERT_KM1000.shrunk("tiny"),
    MHUBERT_KM1000.shrunk("tiny").but(merged=False, normalised=True, chunk=30),
    ENCODEC_24K.shrunk("tiny"),
    ENCODEC_32K.shrunk("tiny").but(streams=1, residuals=2),
    SPEECH_TOKENIZER.shrunk("tiny").but(streams=2),
    SPEECH_TOKENIZER.shrunk("tiny").but(ratios=(3, 2), residuals=2),
    MelUnits().shrunk("tiny"),
    MelUnits().shrunk("tiny").but(stack=3, mels=2, kernel=1, rounds=0),
    CHOSEN.shrunk("tiny"),
    CHOSEN.but(encoder=CLIP_L_224, detokenizer=QueryDetokenizer(), painter=SD_1_5.but(empty=77)).shrunk("tiny"),
)
