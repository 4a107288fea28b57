"""The velocity field that FlowSeg learns: from an image to the centroids of its pixels' classes.

A pixel moves on a straight line, x_t = (1 - t) x_0 + t x_1, from its colour x_0 to the centroid x_1 of its
class, with velocity v = x_1 - x_0. The reshaped field adds what pulls a pixel's estimated end to its own
centroid and pushes it from the others.

Shapes: `M` pixels, `N` classes, `D` dimensions.
"""

from __future__ import annotations

import torch

__all__ = ["class_log_probabilities", "distance_term", "endpoint", "squared_distances"]

_PIXELS_AT_ONCE = 2**17
"""Whose distances to all centroids are in memory."""


def endpoint(x_t: torch.Tensor, velocity: torch.Tensor, time: torch.Tensor | float) -> torch.Tensor:
    """The estimate of x_1: where pixels end if they keep their velocity from time t to 1."""
    return x_t + (1 - time) * velocity


def squared_distances(points: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """(M, N) of (M, D) points and (N, D) centroids."""
    products = points @ centroids.T
    return (points.square().sum(1, keepdim=True) - 2 * products + centroids.square().sum(1)).clamp(min=0)


def class_log_probabilities(distances: torch.Tensor, epsilon: float, temperature: float) -> torch.Tensor:
    """(M, N): log p_k, where p_k is proportional to (d_k + epsilon)^(-1 / temperature)."""
    return (-(distances + epsilon).log() / temperature).log_softmax(-1)


@torch.no_grad()
def distance_term(
    endpoints: torch.Tensor, labels: torch.Tensor, centroids: torch.Tensor, epsilon: float, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(M, D): g, the detached term of the reshaped field; and (M,): the nearest centroid.

    g = (2 / temperature) * sum over k of (y_k - p_k) (x - m_k) / (d_k + epsilon), where x is the estimated
    endpoint and y the one-hot label. Moving the target from v to v - g makes the gradient of |v_theta - v|^2
    that of |v_theta - v|^2 - 2 / (1 - t) * log p_y: flow matching, and a cross-entropy of distances.
    """
    terms, nearest = torch.empty_like(endpoints), torch.empty_like(labels)
    for first in range(0, len(endpoints), _PIXELS_AT_ONCE):
        some = slice(first, first + _PIXELS_AT_ONCE)
        points = endpoints[some]
        distances = squared_distances(points, centroids)
        nearest[some] = distances.argmin(1)
        weights = -class_log_probabilities(distances, epsilon, temperature).exp()
        weights.scatter_add_(1, labels[some, None], torch.ones_like(weights[:, :1]))
        weights /= distances + epsilon
        terms[some] = (weights.sum(1, keepdim=True) * points - weights @ centroids) * (2 / temperature)
    return terms, nearest
