"""MONAI's networks as small as their options allow, for tests."""

from __future__ import annotations

from medveil_imaging.models import Options

SMALL: dict[str, Options] = {
    "AttentionUnet": {"channels": "4-8-8"},
    "AutoEncoder": {"channels": "4-8"},
    "BasicUNet": {"features": "4-4-8-8-8-4"},
    "BasicUNetPlusPlus": {"features": "4-4-8-8-8-4"},
    "Classifier": {"channels": "4-8"},
    "DenseNet": {"init_features": 8, "growth_rate": 4, "block_config": "1-1-1-1"},
    "DynUNet": {"filters": "4-8-8", "strides": "1-2-2"},
    "MedNeXt": {
        "init_filters": 4,
        "kernel_size": 3,
        "blocks_down": "1-1-1-1",
        "blocks_up": "1-1-1-1",
        "blocks_bottleneck": 1,
    },
    "ResNet": {"layers": "1-1-1-1", "block_inplanes": "4-8-8-8"},
    "SegResNet": {"blocks_down": "1-1-1", "blocks_up": "1-1"},
    "SegResNetDS": {"init_filters": 8, "blocks_down": "1-1-1"},
    "SwinUNETR": {"feature_size": 12, "depths": "1-1-1-1", "num_heads": "1-1-1-1"},
    "UNETR": {"feature_size": 4, "hidden_size": 24, "mlp_dim": 32, "num_heads": 2},
    "UNet": {"channels": "4-8-8", "norm": "BATCH"},
    "ViT": {"patch_size": 8, "hidden_size": 24, "mlp_dim": 32, "num_layers": 2, "num_heads": 2},
}
"""Options that make a network as small as it gets; those not named here are tried as they are."""
LARGE_INPUT = {"AHNet": (128, 128), "SwinUNETR": (64, 64)}
QUICK = {"AutoEncoder", "Classifier", "DenseNet", "DynUNet", "ResNet", "UNet", "ViT"}


def size_for(name: str) -> tuple[int, ...]:
    return LARGE_INPUT.get(name, (32, 32))
