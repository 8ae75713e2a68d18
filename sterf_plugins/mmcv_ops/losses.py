"""The focal losses (Lin et al. 2017) as mmcv defines them: per class with sigmoids, and of a softmax."""

import torch
import torchvision
from torch import Tensor

from .values import gradients


def _class_weights(target: Tensor, weight: Tensor) -> Tensor | float:
    """Weight of each sample's class; 1 where there is none, and for labels that are no class."""
    if not weight.numel():
        return 1.0
    padded = torch.cat([weight, weight.new_ones(1)])
    return padded[target.clamp(-1, weight.numel())][:, None]


def _sigmoid_focal_loss(logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    onehot = (target[:, None] == torch.arange(logits.shape[1], device=target.device)).to(logits.dtype)
    losses = torchvision.ops.sigmoid_focal_loss(logits, onehot, alpha, gamma, "none")
    return losses * _class_weights(target, weight)


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss of (N, classes) logits and (N,) labels into ``output``; any other label is the background."""
    output.copy_(_sigmoid_focal_loss(input, target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Gradient of the summed ``sigmoid_focal_loss_forward`` with respect to the logits."""
    options = dict(target=target, weight=weight, gamma=gamma, alpha=alpha)
    grads = gradients(_sigmoid_focal_loss, dict(logits=input), torch.ones_like(input), **options)
    grad_input.copy_(grads["logits"])


def _softmax_weights(target: Tensor, weight: Tensor) -> Tensor | float:
    return weight[target.clamp(min=0)] if weight.numel() else 1.0


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss of (N, classes) *probabilities* and (N,) labels into ``output`` (N,); 0 for negative labels."""
    p = input.gather(1, target.clamp(min=0)[:, None])[:, 0]
    loss = -alpha * (1 - p) ** gamma * p.clamp(min=torch.finfo(p.dtype).tiny).log()
    output.copy_(torch.where(target >= 0, loss * _softmax_weights(target, weight), 0))


def softmax_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Gradient of the summed ``softmax_focal_loss_forward`` with respect to the logits."""
    index = target.clamp(min=0)[:, None]
    p = input.gather(1, index)[:, 0]
    log_p = p.clamp(min=torch.finfo(p.dtype).tiny).log()
    slope = alpha * (-((1 - p) ** gamma) + gamma * (1 - p) ** (gamma - 1) * p * log_p)
    slope = torch.where(target >= 0, slope * _softmax_weights(target, weight), 0)
    buff.copy_(slope)
    grad_input.copy_(slope[:, None] * (torch.zeros_like(input).scatter_(1, index, 1) - input))
