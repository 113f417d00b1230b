"""What in a face spoke for an emotion: heat maps by Grad-CAM.

Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based localization", ICCV 2017: the
last maps before the pooling, weighted by the mean of the gradient of the class's logit with respect to each, added up,
and what is negative left out.
"""

import torch
import torch.nn.functional as F

from data.batches import CROP_SIZE, center_crop, normalise
from utils.files import UserError


def heat_maps(networks, images, emotions, runtime):
    """(N, 48, 48) float32 NumPy, 0..1, the largest of each face 1 (0 where nothing spoke for it).

    networks: as `ready_to_predict` gives them; images: (N, 48, 48) uint8 on the runtime's device; emotions: (N,) the
    classes. The heat is that of the centre crop, and 0 around it.
    """
    network = next(network for network in networks if "classify" in network.tasks)
    if not hasattr(network.model, "trunks"):
        raise UserError(f"--explain knows no {type(network.model).__name__}: leave it out, or give other checkpoints.")
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
    heat = F.interpolate(heat, size=(CROP_SIZE, CROP_SIZE), mode="bilinear", align_corners=False)[:, 0]
    heat = heat / heat.amax((1, 2), keepdim=True).clamp(min=1e-12)
    edge = (images.shape[-1] - CROP_SIZE) // 2
    return F.pad(heat, (edge,) * 4).cpu().numpy()
