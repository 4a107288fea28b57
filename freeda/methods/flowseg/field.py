"""The velocity field that FlowSeg learns: from an image to the centroids of its pixels' classes.

A pixel moves on a straight line, x_t = (1 - t) x_0 + t x_1, from its colour x_0 to the centroid x_1 of its
class, with velocity v = x_1 - x_0. The reshaped field adds what pulls a pixel's estimated end to its own
centroid and pushes it from the others.

Shapes: `M` pixels, `N` classes, `D` dimensions.
"""

from __future__ import annotations

import torch

__all__ = ["class_log_probabilities", "endpoint", "pull", "squared_distances"]


def endpoint(places: torch.Tensor, velocity: torch.Tensor, time: torch.Tensor | float) -> torch.Tensor:
    """Where pixels at `places` end if they go on with their velocity from time t to 1."""
    return places + (1 - time) * velocity


def squared_distances(ends: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """(M, N) of (M, D) points and (N, D) centroids."""
    products = ends @ centroids.T
    return (ends.square().sum(1, keepdim=True) - 2 * products + centroids.square().sum(1)).clamp(min=0)


def class_log_probabilities(distances: torch.Tensor, epsilon: float, temperature: float) -> torch.Tensor:
    """(M, N): log p_k, where p_k is proportional to (d_k + epsilon)^(-1 / temperature)."""
    return (-(distances + epsilon).log() / temperature).log_softmax(-1)


def pull(
    ends: torch.Tensor, labels: torch.Tensor, centroids: torch.Tensor, epsilon: float, temperature: float
) -> torch.Tensor:
    """(M, D): g, the detached term of the reshaped field.

    g = (2 / temperature) * sum over k of (y_k - p_k) (x - m_k) / (d_k + epsilon); y is the one-hot label.
    Moving the target from v to v - g makes the gradient of |v_theta - v|^2 that of
    |v_theta - v|^2 - 2 / (1 - t) * log p_y: flow matching, and a cross-entropy of distances.
    """
    with torch.no_grad():
        distances = squared_distances(ends, centroids)
        probabilities = class_log_probabilities(distances, epsilon, temperature).exp()
        own = torch.zeros_like(probabilities).scatter_(1, labels[:, None], 1.0)
        weights = (own - probabilities) / (distances + epsilon)
        found: torch.Tensor = weights.sum(1, keepdim=True) * ends - weights @ centroids
        return found * (2 / temperature)
