"""The loss of the attention network: its weights and its errors."""

from __future__ import annotations

import math

import pytest
import torch
from small_attention import (
    K,
    N,
    batch,
    small_network,
)
from torch.nn import functional as nnf

import fastcam
from fastcam.losses.attention import AttentionLoss, attention_loss


def test_the_loss_weighs_its_parts_and_gives_them_unweighted() -> None:
    images, labels = batch()
    outputs = small_network().outputs(images)
    weights = {"lambda_b": 2.0, "lambda_m": 3.0, "lambda_r": 5.0, "lambda_1": 7.0}
    terms = attention_loss(outputs, labels.bool(), images, **weights)
    weighted = [weight * part for weight, part in zip(weights.values(), terms[1:], strict=True)]
    torch.testing.assert_close(terms.total, sum(weighted))
    bce = nnf.binary_cross_entropy_with_logits
    torch.testing.assert_close(terms.binary, K * bce(outputs.binary, labels))
    torch.testing.assert_close(terms.multilabel, K * bce(outputs.multilabel, labels))
    torch.testing.assert_close(terms.l1, outputs.l1.mean(0).sum())
    module = AttentionLoss(**weights)
    assert torch.equal(module(outputs, labels, images).total, terms.total)
    assert "lambda_1=7.0" in repr(module)
    assert AttentionLoss().weights == dict(zip(weights, (1.0, 1.0, 4.0, 1e-5), strict=True))
    assert fastcam.AttentionLoss is AttentionLoss


def test_an_empty_batch_costs_nothing() -> None:
    images, labels = (given[:0] for given in batch())
    network = small_network().eval()
    terms = attention_loss(network.outputs(images), labels, images)
    assert all(term == 0 for term in terms)
    terms.total.backward()
    found = [p.grad for p in network.parameters() if p.grad is not None]
    assert found and not any(gradient.any() for gradient in found)


def test_wrong_arguments_of_the_loss_are_named() -> None:
    images, labels = batch()
    outputs = small_network().outputs(images)
    with pytest.raises(ValueError, match=r"labels: expected shape \[3, 4\] \(binary logits\)"):
        attention_loss(outputs, labels[:, :2], images)
    with pytest.raises(TypeError, match="labels: expected a torch.Tensor, got list"):
        attention_loss(outputs, labels.tolist(), images)
    with pytest.raises(ValueError, match="labels: expected 0 or 1.* got -1 to 1 .*labels > 0"):
        attention_loss(outputs, torch.tensor([[-1, 1, 1, -1]] * N), images)
    with pytest.raises(ValueError, match=r"images: expected shape \[3, 3, 18, 13\].*got None"):
        attention_loss(outputs, labels)
    with pytest.raises(ValueError, match=r"images: .* got \[3, 3, 9, 9\]"):
        attention_loss(outputs, labels, images[..., :9, :9])
    with pytest.raises(ValueError, match=r"binary: expected logits of shape \[N,K\], got \[2, 3"):
        attention_loss(outputs._replace(binary=outputs.binary.expand(2, N, K)), labels, images)
    with pytest.raises(ValueError, match=r"lambda_r: expected a number finite and >= 0, got -1"):
        AttentionLoss(lambda_r=-1)
    with pytest.raises(ValueError, match="lambda_1: .* got inf"):
        attention_loss(outputs, labels, images, lambda_1=math.inf)
