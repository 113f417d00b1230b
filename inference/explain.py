"""Heat maps by Grad-CAM: what in a face spoke for its emotion.

Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based
localization", ICCV 2017: the last maps before the pooling, weighted by the mean gradient of the
logit of the class with respect to each, summed, without what is negative.
"""

import torch
import torch.nn.functional as F

from data.batches import CROP_SIZE, center_crop, normalise
from utils.files import UserError


def heat_maps(networks, images, emotions, runtime):
    """float32 NumPy (N, 48, 48), 0..1: of the centre crop, its maximum 1; 0 around it.

    networks: as `ready_to_predict` gives them; images: uint8 (N, 48, 48) on the device of the
    runtime; emotions: the classes, (N,). Raises UserError for a network without such maps.
    """
    network = next(network for network in networks if "classify" in network.tasks)
    if not hasattr(network.model, "trunks"):
        name = type(network.model).__name__
        raise UserError(f"explain is not available for {name}: leave it out.")
    trunk = network.model.trunks["classify" if "classify" in network.model.trunks else "shared"]
    maps = []
    handle = trunk.layer4.register_forward_hook(lambda module, inputs, output: maps.append(output))
    try:
        with torch.enable_grad(), runtime.autocast():
            pixels = normalise(center_crop(images), **network.preprocessing).requires_grad_()
            logits = network.model(pixels)["classify"].float()
            chosen = logits.gather(1, emotions.to(logits.device)[:, None]).sum()
            (gradient,) = torch.autograd.grad(chosen, maps[0])
    finally:
        handle.remove()
    weights = gradient.float().mean((2, 3), keepdim=True)
    heat = (weights * maps[0].detach().float()).sum(1, keepdim=True).relu()
    size = (CROP_SIZE, CROP_SIZE)
    heat = F.interpolate(heat, size=size, mode="bilinear", align_corners=False)[:, 0]
    heat = heat / heat.amax((1, 2), keepdim=True).clamp(min=1e-12)
    edge = (images.shape[-1] - CROP_SIZE) // 2
    return F.pad(heat, (edge,) * 4).cpu().numpy()
