"""A wavelet head without complex numbers says what the network says, whatever the picture's edges."""

from __future__ import annotations

import pytest
import torch

from medveil_imaging.models import ModelShape, build
from medveil_imaging.models.wavelet_head import WaveletHead
from medveil_research.real_wavelets import RealWavelets


@pytest.mark.parametrize("size", [(28, 28), (64, 48), (34, 45), (33, 36)])
@pytest.mark.parametrize(
    "options", [{"scales": 2, "grid": 7}, {"scales": 3, "angles": 5, "grid": 4, "equalised": True}]
)
def test_real_products_give_the_features_of_the_fourier_transform(
    size: tuple[int, int], options: dict[str, int]
) -> None:
    if min(size) < 4 * 2 ** options["scales"]:
        options = options | {"scales": 2}
    network = build("wavelet_head", ModelShape(size, 3, 2), options, seed=1)
    assert isinstance(network, WaveletHead)
    generator = torch.Generator().manual_seed(2)
    network.head.weight.data.normal_(generator=generator)
    images = torch.randn(3, 2, *size, generator=generator)
    images[0] = images[0].cumsum(1).cumsum(2) / 30  # smooth, as films are
    with torch.no_grad():
        wanted, found = network(images), RealWavelets(network)(images)
    assert found == pytest.approx(wanted, abs=2e-5)
    assert float(wanted.abs().max()) > 0.5
